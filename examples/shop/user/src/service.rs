//! The methods of `shop.user.v1.UserService`: check the request, ask the store, answer.

use std::time::{SystemTime, UNIX_EPOCH};

use formic::prelude::*;
use shop_token::{Claims, bearer};

use crate::password::fill_random;
use crate::proto::{self, UserService, *};
use crate::store::{RegisterError, User};
use crate::{Users, input, key};

impl UserService for Users {
    async fn register(&self, _ctx: Context, req: Request<'_, RegisterRequest>) -> Reply<RegisterResponse> {
        let req = req.to_owned_message();
        let (email, name) = input::registration(&req)?;
        // Asked before the hash, which is dear; the table decides when two come at once.
        if self.store.credentials(email.clone()).await?.is_some() {
            return Err(email_taken());
        }
        let hash = self.passwords.hash(req.password).await?;
        let id = new_id()?;
        let user = User { id: id.clone(), email, name, address: None, created_at: unix_now() };
        self.store.register(user, hash).await.map_err(|error| match error {
            RegisterError::EmailTaken => email_taken(),
            RegisterError::Database(error) => error.into(),
        })?;
        reply(RegisterResponse { user_id: id, ..Default::default() })
    }

    async fn log_in(&self, _ctx: Context, req: Request<'_, LogInRequest>) -> Reply<LogInResponse> {
        let email = input::log_in(req.email, req.password)?;
        let found = self.store.credentials(email.clone()).await?;
        let (user_id, stored) = match found {
            Some(found) => (Some(found.user_id), Some(found.password_hash)),
            None => (None, None),
        };
        // Also for nobody: neither the answer nor its time says whether the email has an account.
        let right = self.passwords.verify(req.password.to_owned(), stored).await?;
        let Some(user_id) = user_id.filter(|_| right) else {
            return Err(Error::unauthenticated("the email or the password is wrong"));
        };
        let now = unix_now();
        let lifetime = i64::try_from(self.token_lifetime.as_secs()).unwrap_or(i64::MAX);
        reply(LogInResponse {
            token: self.signer.issue(&user_id, &email, now, lifetime),
            expires_at_unix: now.saturating_add(lifetime),
            user_id,
            ..Default::default()
        })
    }

    async fn get_profile(
        &self,
        ctx: Context,
        _req: Request<'_, GetProfileRequest>,
    ) -> Reply<GetProfileResponse> {
        let id = self.claims(&ctx)?.sub;
        let user = self.store.user(id).await?.ok_or_else(no_account)?;
        reply(GetProfileResponse { profile: profile(user).into(), ..Default::default() })
    }

    async fn update_profile(
        &self,
        ctx: Context,
        req: Request<'_, UpdateProfileRequest>,
    ) -> Reply<UpdateProfileResponse> {
        let id = self.claims(&ctx)?.sub;
        let changes = input::changes(req.to_owned_message())?;
        let user = self.store.update(id, changes).await?.ok_or_else(no_account)?;
        reply(UpdateProfileResponse { profile: profile(user).into(), ..Default::default() })
    }

    async fn get_keys(&self, _ctx: Context, _req: Request<'_, GetKeysRequest>) -> Reply<GetKeysResponse> {
        let key = PublicKey {
            kid: self.signer.key_id().to_owned(),
            algorithm: "ed25519".into(),
            public_key: self.signer.public_key().to_vec(),
            ..Default::default()
        };
        reply(GetKeysResponse { keys: vec![key], ..Default::default() })
    }
}

// === impl Users: tokens ===

impl Users {
    fn claims(&self, ctx: &Context) -> Result<Claims, Error> {
        shop_token::verify(bearer(ctx)?, &self.keys, unix_now()).map_err(Into::into)
    }
}

fn profile(user: User) -> proto::Profile {
    let address = user.address.map(|address| proto::Address {
        street: address.street,
        city: address.city,
        postal_code: address.postal_code,
        country: address.country,
        ..Default::default()
    });
    proto::Profile {
        user_id: user.id,
        email: user.email,
        name: user.name,
        address: address.into(),
        created_at_unix: user.created_at,
        ..Default::default()
    }
}

fn email_taken() -> Error {
    Error::already_exists("this email has an account already").with_field("email", "has an account already")
}

/// A valid token of an account that is not in the database, such as after a restored backup.
fn no_account() -> Error {
    Error::not_found("the token's account is gone")
}

fn new_id() -> Result<String, Error> {
    let mut id = [0; 16];
    fill_random(&mut id).map_err(|error| Error::internal("no random bytes").with_source(error))?;
    Ok(format!("usr_{}", key::hex(&id)))
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
