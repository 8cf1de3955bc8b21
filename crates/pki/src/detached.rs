//! Signatures with a shared secret that stand apart from what they sign: JWS (RFC 7515) with HS256 and an empty payload part.
//! By these a node that knows a bootstrap token recognizes its cluster.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The signature of `text` with the token `id.secret`.
pub fn sign(text: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// Whether `signature` is one of `text` with the token `id.secret`.
pub fn verify(signature: &str, text: &str, id: &str, secret: &str) -> bool {
    let Some((header, tag)) = signature.split_once("..") else { return false };
    let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else { return false };
    if header != URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#)) {
        return false;
    }
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_upstream() {
        // From the tests of upstream's `k8s.io/cluster-bootstrap/token/jws`.
        const CONTENT: &str = "Hello from the other side. I must have called a thousand times.";
        const EXPECTED: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8";
        assert_eq!(sign(CONTENT, "joshua", "my voice is my passcode"), EXPECTED);
        assert!(verify(EXPECTED, CONTENT, "joshua", "my voice is my passcode"));
        assert!(!verify(EXPECTED, "Goodbye", "joshua", "my voice is my passcode"));
        assert!(!verify(EXPECTED, CONTENT, "joshua", "my voice"));
        assert!(!verify(EXPECTED, CONTENT, "nobody", "my voice is my passcode"));
    }
}
