//! The keys of both sides: one that signs, and the public ones that verify.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::Claims;

/// What is signed is this and then the encoded payload, so that a signature made here can mean nothing elsewhere.
pub(crate) const CONTEXT: &[u8] = b"shop token v1\n";

/// The public keys that a verifier trusts, by name.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    by_id: HashMap<String, VerifyingKey>,
}

/// Why bytes are not a public key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An ed25519 key has 32 bytes.
    #[error("a public key of {0} bytes, where ed25519 has 32")]
    Length(usize),
    /// Not a point of the curve, or one of small order.
    #[error("not an ed25519 public key")]
    Invalid,
}

/// The private key with which the user service signs tokens.
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    id: String,
}

// === impl Keys ===

impl Keys {
    /// Trusts one more key.
    ///
    /// # Errors
    /// When the bytes are not an ed25519 public key.
    pub fn insert(&mut self, id: impl Into<String>, bytes: &[u8]) -> Result<(), KeyError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::Length(bytes.len()))?;
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Invalid)?;
        // A key of small order verifies signatures that nobody made.
        if key.is_weak() {
            return Err(KeyError::Invalid);
        }
        self.by_id.insert(id.into(), key);
        Ok(())
    }

    /// Whether a key of this name is known.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// How many keys are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&VerifyingKey> {
        self.by_id.get(id)
    }
}

// === impl Signer ===

impl Signer {
    /// A signer from 32 secret, random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = key.verifying_key().as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { key, id }
    }

    /// The name of the key: the start of the public one in hexadecimal.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.id
    }

    /// The public key, 32 bytes.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public half, for whoever verifies.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys { by_id: HashMap::from([(self.id.clone(), self.key.verifying_key())]) }
    }

    /// A token for this user. `issued_at` is in seconds since the Unix epoch, `lifetime` in seconds.
    #[must_use]
    pub fn issue(&self, user_id: &str, email: &str, issued_at: i64, lifetime: i64) -> String {
        let claims = Claims {
            sub: user_id.to_owned(),
            email: email.to_owned(),
            iat: issued_at,
            exp: issued_at.saturating_add(lifetime),
            kid: self.id.clone(),
        };
        let json = serde_json::to_vec(&claims).expect("claims are strings and numbers");
        let payload = URL_SAFE_NO_PAD.encode(json);
        let signature = self.key.sign(&[CONTEXT, payload.as_bytes()].concat());
        format!("{payload}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}

/// Shows the key's name and never the key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}
