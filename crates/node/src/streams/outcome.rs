//! How a process ended, as clients are told on the error stream.

use bytes::Bytes;

/// How an outcome is told; it came with the version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// As a `Status`, always: `v4.channel.k8s.io` and later.
    Status,
    /// As a sentence, and only a failure.
    Text,
}

/// What is told; nothing of a success that is told as text.
pub fn told(code: &cri::Result<i32>, doing: &str, telling: Telling) -> Option<Bytes> {
    let status = status(code, doing);
    match telling {
        Telling::Status => Some(status.to_string().into()),
        Telling::Text if status["status"] == "Success" => None,
        Telling::Text => Some(status["message"].as_str().unwrap_or_default().to_owned().into()),
    }
}

fn status(code: &cri::Result<i32>, doing: &str) -> serde_json::Value {
    match code {
        Ok(0) => serde_json::json!({"metadata": {}, "status": "Success"}),
        Ok(code) => serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => {
            let why = format!("error {doing} container: {error}");
            serde_json::json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: cri::Result<i32>, expected: serde_json::Value, text: Option<&str>) {
        let message = told(&code, "executing command in", Telling::Status).expect("always told");
        let status: serde_json::Value = serde_json::from_slice(&message).expect("a status");
        assert_eq!(status, expected);
        let message = told(&code, "executing command in", Telling::Text);
        assert_eq!(message.as_deref(), text.map(str::as_bytes));
    }

    #[test]
    fn tells_how_a_process_ended_or_why_there_was_none() {
        check(Ok(0), serde_json::json!({"metadata": {}, "status": "Success"}), None);
        let three = "command terminated with non-zero exit code: exit status 3";
        check(
            Ok(3),
            serde_json::json!({"metadata": {}, "status": "Failure", "message": three, "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}),
            Some(three),
        );
        let error = cri::Error::Internal("exec: \"nope\": executable file not found in $PATH".to_owned());
        let why = format!("error executing command in container: {error}");
        let message = format!("Internal error occurred: {why}");
        check(
            Err(error),
            serde_json::json!({"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
                "details": {"causes": [{"message": why}]}, "code": 500}),
            Some(&message),
        );
    }
}
