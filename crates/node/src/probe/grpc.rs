//! Asking a container with gRPC's health protocol, `grpc.health.v1`, without TLS as upstream does.

use std::time::Duration;

use wire::client::Protocols;
use wire::grpc::{DEADLINE_EXCEEDED, GrpcError, UNIMPLEMENTED, unary};
use wire::{Client, ClientError, ClientOptions};

use super::{Found, go_seconds};

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Far more than a status takes.
const ANSWER_BYTES_MAX: usize = 4096;
/// `HealthCheckResponse.ServingStatus` by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// Asks once.
pub async fn ask(authority: &str, service: &str, timeout: Duration) -> Found {
    let client = Client::new(ClientOptions {
        protocols: Protocols::Http2,
        connect_timeout: timeout,
        window_bytes: 64 * 1024,
        ..ClientOptions::default()
    });
    let request = request(service);
    let asked = unary(&client, authority, CHECK, &request, (ANSWER_BYTES_MAX, timeout));
    let limit = go_seconds(timeout);
    match stdx::timeout(timeout, asked).await {
        Err(stdx::Elapsed) => Found::Bad(format!("timeout: health rpc did not complete within {limit}")),
        Ok(Ok(answer)) => verdict(&answer),
        Ok(Err(GrpcError::Client(ClientError::Connect { .. } | ClientError::Timeout { .. }))) => Found::Bad(format!(
            "timeout: failed to connect service {authority:?} within {limit}: context deadline exceeded"
        )),
        Ok(Err(GrpcError::Status { code: UNIMPLEMENTED, message })) => Found::Bad(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Ok(Err(GrpcError::Status { code: DEADLINE_EXCEEDED, .. })) => {
            Found::Bad(format!("timeout: health rpc did not complete within {limit}"))
        }
        Ok(Err(error)) => Found::Bad(format!("error: health rpc probe failed: {error}")),
    }
}

/// `HealthCheckRequest`: the service's name in field 1.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// `HealthCheckResponse`: the status in field 1; what else there may be is not known yet and refused with it.
fn verdict(answer: &[u8]) -> Found {
    let status = match answer {
        [] => 0,
        [0x08, status] if *status < 0x80 => u64::from(*status),
        _ => return Found::Bad("error: health rpc probe failed: the answer is no HealthCheckResponse".into()),
    };
    if status == SERVING {
        return Found::Good;
    }
    let word = usize::try_from(status).ok().and_then(|status| STATUSES.get(status));
    Found::Bad(format!(
        "service unhealthy (responded with {:?})",
        word.map_or_else(|| status.to_string(), ToString::to_string)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_the_health_protocol() {
        assert_eq!(request(""), b"");
        assert_eq!(request("db"), b"\x0a\x02db");
        assert_eq!(request(&"x".repeat(200))[..3], [0x0a, 0xc8, 0x01]);
        assert_eq!(verdict(&[8, 1]), Found::Good);
        assert_eq!(verdict(&[8, 2]), Found::Bad(r#"service unhealthy (responded with "NOT_SERVING")"#.into()));
        assert_eq!(verdict(&[]), Found::Bad(r#"service unhealthy (responded with "UNKNOWN")"#.into()));
    }

    #[tokio::test]
    async fn says_that_nobody_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let found = ask(&address, "", Duration::from_secs(2)).await;
        let expected = format!("timeout: failed to connect service {address:?} within 2s: context deadline exceeded");
        assert_eq!(found, Found::Bad(expected));
    }
}
