//! The shop's tokens: how the user service signs them and how every other service verifies them.
//!
//! A token is `base64url(payload).base64url(signature)`, the payload being the JSON of [`Claims`] and the signature ed25519.
//! It is not a JWT on purpose: there is no header that could name an algorithm, so there is none to confuse.
//!
//! [`verify`] is pure; [`Verifier`] adds the public keys, which it asks the user service for and keeps.

mod claims;
mod keys;
mod verifier;

pub use claims::{Claims, TokenError, verify};
pub use keys::{KeyError, Keys, Signer};
pub use verifier::{Verifier, bearer};

mod wire {
    //! The generated contract of the user service; private, because a token's users need none of it.

    formic::include_protos!();
}
