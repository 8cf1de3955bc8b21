//! Lifecycle hooks: what runs right after a container started and right before it is asked to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use crate::probe::{Asked, http_get, port};

/// Runs a hook; the error is what the event says.
pub async fn run(asked: &Asked<'_>, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    match stdx::timeout(limit, once(asked, handler)).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not end within {}s", limit.as_secs())),
    }
}

async fn once(asked: &Asked<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let response = asked.runtime.exec_sync(asked.container_id, command.clone(), Duration::ZERO).await;
        return match response {
            Ok(response) if response.exit_code == 0 => Ok(()),
            Ok(response) => Err(format!(
                "command '{}' exited with {}: {}",
                command.join(" "),
                response.exit_code,
                String::from_utf8_lossy(&response.stderr).trim_end()
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(get) = &handler.http_get {
        let port = port(&get.port, asked.container).ok_or("couldn't find port")?;
        let host = get.host.clone().filter(|host| !host.is_empty()).or(asked.pod_ip.map(|ip| ip.to_string()));
        let code = http_get(&host.unwrap_or_default(), port, get).await?;
        return if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP hook got status code {code}")) };
    }
    if let Some(sleep) = &handler.sleep {
        stdx::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("a hook of an unknown kind".into())
}
