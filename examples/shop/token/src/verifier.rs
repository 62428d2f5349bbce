//! Verifies the token of a request with keys that the user service gives out.
//!
//! The keys are kept, so an ordinary request costs one signature check and no call. They are asked for again when a token
//! names a key that is not known, but seldom, lest anybody's invented key names turn into load on the user service.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use formic::prelude::*;
use tokio::sync::Mutex;

use crate::wire::shop::user::v1::{GetKeysRequest, UserServiceClient};
use crate::{Claims, Keys, TokenError, claims, verify};

/// After the keys were fetched, an unknown key name causes no other fetch for this long.
const REFETCH_AFTER: Duration = Duration::from_secs(3);

/// Verifies tokens. Cheap to clone; the clones share the keys.
#[derive(Clone, Debug)]
pub struct Verifier {
    source: Option<UserServiceClient>,
    cache: Arc<Cache>,
}

/// The keys that are known, and when they were fetched.
#[derive(Debug, Default)]
struct Cache {
    known: RwLock<Known>,
    /// Held while one caller fetches; the others wait for its answer.
    fetching: Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    keys: Arc<Keys>,
    fetched: Option<Instant>,
}

// === impl Verifier ===

impl Verifier {
    /// Verifies with the keys of the user service at the other end of this channel.
    #[must_use]
    pub fn new(user: Channel) -> Self {
        Self { source: Some(UserServiceClient::new(user)), cache: Arc::default() }
    }

    /// Verifies with the keys of the service named `user`.
    #[must_use]
    pub fn from_service(service: &Service) -> Self {
        Self::new(service.client("user"))
    }

    /// Verifies with these keys alone and never asks for others.
    #[must_use]
    pub fn with_keys(keys: Keys) -> Self {
        let known = Known { keys: Arc::new(keys), fetched: None };
        Self {
            source: None,
            cache: Arc::new(Cache { known: RwLock::new(known), fetching: Mutex::default() }),
        }
    }

    /// Who makes this request, by its metadata `authorization: Bearer <token>`.
    ///
    /// # Errors
    /// `unauthenticated` without a valid token; what the user service answered when its keys cannot be had.
    pub async fn claims(&self, ctx: &Context) -> Result<Claims, Error> {
        self.verify(bearer(ctx)?).await
    }

    /// Who this token speaks for.
    ///
    /// # Errors
    /// As [`Verifier::claims`].
    pub async fn verify(&self, token: &str) -> Result<Claims, Error> {
        let id = claims::key_id(token)?;
        let keys = self.cache.keys_for(&id, || self.fetch()).await?;
        Ok(verify(token, &keys, unix_now())?)
    }

    async fn fetch(&self) -> Result<Option<Keys>, Error> {
        let Some(user) = &self.source else { return Ok(None) };
        let answer = user.get_keys(GetKeysRequest::default()).await?;
        let mut keys = Keys::default();
        for key in answer.keys.iter().filter(|key| key.algorithm == "ed25519") {
            if let Err(error) = keys.insert(key.kid.clone(), &key.public_key) {
                tracing::warn!(kid = %key.kid, %error, "the user service gave out a key that is none");
            }
        }
        Ok(Some(keys))
    }
}

/// The token of a request's metadata `authorization: Bearer <token>`.
///
/// # Errors
/// `unauthenticated` when there is none.
pub fn bearer(ctx: &Context) -> Result<&str, Error> {
    let value = ctx.metadata().get("authorization").ok_or_else(|| {
        Error::unauthenticated("log in first: the metadata `authorization: Bearer <token>` is missing")
            .with_info("shop.user", "TOKEN_MISSING", NO_DETAILS)
    })?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(TokenError::Malformed.into()),
    }
}

/// To the wire once, here: every service of the shop refuses a token in the same words.
impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        let reason = match error {
            TokenError::Malformed => "TOKEN_MALFORMED",
            TokenError::UnknownKey => "TOKEN_KEY_UNKNOWN",
            TokenError::BadSignature => "TOKEN_SIGNATURE_WRONG",
            TokenError::Expired => "TOKEN_EXPIRED",
            TokenError::NotYetValid => "TOKEN_NOT_YET_VALID",
        };
        Error::unauthenticated(error.to_string()).with_info("shop.user", reason, NO_DETAILS)
    }
}

const NO_DETAILS: [(&str, &str); 0] = [];

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

// === impl Cache ===

impl Cache {
    /// The keys, fetched first when `id` is not among them and the last fetch is not recent.
    ///
    /// A caller whose fetch fails or is cancelled leaves the cache as it was, and the next one tries again: each is bounded
    /// by its own deadline, and nobody is refused because of somebody else's.
    async fn keys_for<F>(&self, id: &str, fetch: impl FnOnce() -> F) -> Result<Arc<Keys>, Error>
    where
        F: Future<Output = Result<Option<Keys>, Error>>,
    {
        if let Some(keys) = self.good_enough(id) {
            return Ok(keys);
        }
        let _fetching = self.fetching.lock().await;
        if let Some(keys) = self.good_enough(id) {
            return Ok(keys);
        }
        match fetch().await? {
            Some(keys) => {
                let keys = Arc::new(keys);
                let mut known = self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                *known = Known { keys: Arc::clone(&keys), fetched: Some(Instant::now()) };
                Ok(keys)
            }
            None => Ok(self.known().keys),
        }
    }

    fn good_enough(&self, id: &str) -> Option<Arc<Keys>> {
        let known = self.known();
        let recent = known.fetched.is_some_and(|at| at.elapsed() < REFETCH_AFTER);
        (recent || known.keys.contains(id)).then_some(known.keys)
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Signer;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed(&[seed; 32])
    }

    #[tokio::test]
    async fn fixed_keys_are_enough_and_never_fetched() {
        let signer = signer(1);
        let verifier = Verifier::with_keys(signer.keys());
        let claims = verifier.verify(&signer.issue("u1", "ann@example.com", unix_now(), 60)).await.unwrap();
        assert_eq!(claims.sub, "u1");

        let error = verifier.verify(&self::signer(2).issue("u1", "x", unix_now(), 60)).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert_eq!(error.info().unwrap().reason, "TOKEN_KEY_UNKNOWN");
    }

    #[tokio::test]
    async fn many_unknown_names_cost_one_fetch() {
        let cache = Cache::default();
        let fetches = AtomicUsize::new(0);
        for name in 0..50 {
            let fetch = async || {
                fetches.fetch_add(1, Ordering::Relaxed);
                Ok(Some(signer(1).keys()))
            };
            cache.keys_for(&name.to_string(), fetch).await.unwrap();
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_old_answer_is_asked_for_again_only_for_an_unknown_name() {
        let (old, new) = (signer(1), signer(2));
        let cache = Cache::default();
        cache.keys_for(old.key_id(), async || Ok(Some(old.keys()))).await.unwrap();
        cache.known.write().unwrap().fetched = Instant::now().checked_sub(REFETCH_AFTER);

        let keys = cache.keys_for(old.key_id(), async || panic!("fetched for a known key")).await.unwrap();
        assert!(keys.contains(old.key_id()));
        let keys = cache.keys_for(new.key_id(), async || Ok(Some(new.keys()))).await.unwrap();
        assert!(keys.contains(new.key_id()));
    }

    #[tokio::test]
    async fn a_failed_fetch_is_the_callers_and_does_not_stop_the_next() {
        let signer = signer(1);
        let cache = Cache::default();
        let error = cache.keys_for("x", async || Err(Error::unavailable("down"))).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        let keys = cache.keys_for(signer.key_id(), async || Ok(Some(signer.keys()))).await.unwrap();
        assert_eq!(keys.len(), 1);
    }
}
