//! What a token says, and the pure check of whether to believe it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signature;
use serde::{Deserialize, Serialize};

use crate::Keys;
use crate::keys::CONTEXT;

/// Longer than any token that is issued (an email has at most 254 bytes); what is longer is refused unread.
const MAX_TOKEN: usize = 2048;

/// How far the clocks of two machines may differ, in seconds.
const CLOCK_SKEW: i64 = 60;

/// What a verified token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user's id.
    pub sub: String,
    /// The user's email at the time of the log-in.
    pub email: String,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// From when on it is worth nothing, in seconds since the Unix epoch.
    pub exp: i64,
    /// The key that signed it.
    pub kid: String,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form `payload.signature`.
    #[error("the token is malformed")]
    Malformed,
    /// Signed by a key that is not known.
    #[error("the token is signed by an unknown key")]
    UnknownKey,
    /// Not signed by the key that it names.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was issued in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
}

/// The claims of a token that one of `keys` signed and that is valid at `now` (seconds since the Unix epoch).
///
/// # Errors
/// The first reason to refuse it; nothing of a token that is refused may be used.
pub fn verify(token: &str, keys: &Keys, now: i64) -> Result<Claims, TokenError> {
    let (payload, signature) = split(token)?;
    let claims = decode(payload)?;
    let key = keys.get(&claims.kid).ok_or(TokenError::UnknownKey)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    let signature = Signature::from_slice(&signature).map_err(|_| TokenError::Malformed)?;
    key.verify_strict(&[CONTEXT, payload.as_bytes()].concat(), &signature)
        .map_err(|_| TokenError::BadSignature)?;
    if now >= claims.exp {
        return Err(TokenError::Expired);
    }
    if claims.iat > now.saturating_add(CLOCK_SKEW) {
        return Err(TokenError::NotYetValid);
    }
    Ok(claims)
}

/// The name of the key that a token claims to be signed by; not yet to be believed.
pub(crate) fn key_id(token: &str) -> Result<String, TokenError> {
    let (payload, _) = split(token)?;
    Ok(decode(payload)?.kid)
}

fn split(token: &str) -> Result<(&str, &str), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    token.split_once('.').ok_or(TokenError::Malformed)
}

fn decode(payload: &str) -> Result<Claims, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::Signer;

    const NOW: i64 = 1_800_000_000;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; 32])
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let signer = signer(1);
        let claims =
            verify(&signer.issue("u1", "ann@example.com", NOW, 3600), &signer.keys(), NOW + 10).unwrap();
        assert_eq!(claims.sub, "u1");
        assert_eq!(claims.email, "ann@example.com");
        assert_eq!((claims.iat, claims.exp), (NOW, NOW + 3600));
        assert_eq!(claims.kid, signer.key_id());
    }

    #[test]
    fn time_ends_a_token_and_the_future_does_not_start_it() {
        let signer = signer(1);
        let token = signer.issue("u1", "ann@example.com", NOW, 3600);
        assert!(verify(&token, &signer.keys(), NOW + 3599).is_ok());
        assert_eq!(verify(&token, &signer.keys(), NOW + 3600), Err(TokenError::Expired));
        assert!(verify(&token, &signer.keys(), NOW - CLOCK_SKEW).is_ok());
        assert_eq!(verify(&token, &signer.keys(), NOW - CLOCK_SKEW - 1), Err(TokenError::NotYetValid));
    }

    #[test]
    fn another_key_signs_in_vain() {
        let (real, forger) = (signer(1), signer(2));
        let token = forger.issue("u1", "ann@example.com", NOW, 3600);
        assert_eq!(verify(&token, &real.keys(), NOW), Err(TokenError::UnknownKey));

        // The forger names the real key and signs with its own.
        let mut claims = verify(&token, &forger.keys(), NOW).unwrap();
        claims.kid = real.key_id().to_owned();
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap());
        let (_, signature) = token.split_once('.').unwrap();
        assert_eq!(
            verify(&format!("{payload}.{signature}"), &real.keys(), NOW),
            Err(TokenError::BadSignature)
        );
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let signer = signer(1);
        let token = signer.issue("u1", "ann@example.com", NOW, 3600);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(&changed, &signer.keys(), NOW).is_err(), "byte {at} changed unnoticed");
        }
    }

    #[test]
    fn noise_is_malformed() {
        let keys = signer(1).keys();
        let long = "a".repeat(MAX_TOKEN + 1);
        for token in ["", ".", "a", "a.b", "e30.e30", "....", long.as_str(), "é.é"] {
            assert_eq!(verify(token, &keys, NOW), Err(TokenError::Malformed), "{token:.20}");
        }
    }

    #[test]
    fn a_weak_or_short_key_is_refused() {
        let mut keys = Keys::default();
        assert!(keys.insert("short", &[1; 31]).is_err());
        // The identity point: of order one.
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(keys.insert("weak", &identity).is_err());
        assert!(keys.is_empty());
    }

    #[test]
    fn a_signer_shows_no_secret() {
        let shown = format!("{:?}", signer(7));
        assert!(!shown.contains("7, 7"), "{shown}");
    }
}
