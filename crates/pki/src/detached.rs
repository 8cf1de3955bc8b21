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

/// Whether `signature` is that of `text` with the token. How long the answer takes tells nothing of where they differ.
pub fn verify(signature: &str, text: &str, id: &str, secret: &str) -> bool {
    let expected = sign(text, id, secret);
    aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), signature.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_what_another_implementation_signs_alike() {
        // Made with Python's `hmac` and `base64`.
        let expected = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..K1chermAQEq0rdqy-ehj0VDfmA_ytv8Wzh9g26FldrE";
        assert_eq!(sign("apiVersion: v1\n", "abcdef", "0123456789abcdef"), expected);
        assert_ne!(sign("apiVersion: v2\n", "abcdef", "0123456789abcdef"), expected);
    }

    #[test]
    fn believes_only_who_knows_the_token_and_only_what_was_signed() {
        let signature = sign("apiVersion: v1\n", "abcdef", "0123456789abcdef");
        let check = |text: &str, id: &str, secret: &str, expected: bool| {
            assert_eq!(verify(&signature, text, id, secret), expected, "{text:?} {id} {secret}");
        };
        check("apiVersion: v1\n", "abcdef", "0123456789abcdef", true);
        check("apiVersion: v2\n", "abcdef", "0123456789abcdef", false);
        check("apiVersion: v1\n", "abcdeg", "0123456789abcdef", false);
        check("apiVersion: v1\n", "abcdef", "0123456789abcdeg", false);
        assert!(!verify("", "", "abcdef", ""));
    }
}
