//! The user service as its callers see it, in memory.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use formic::prelude::*;
use formic_testing::Network;
use shop_token::Verifier;
use shop_user::proto::*;
use shop_user::{UserConfig, Users};

/// A service over a folder that is gone when the test is over.
struct World {
    folder: PathBuf,
    network: Network,
    user: UserServiceClient,
}

impl World {
    async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("shop-user-service-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let network = Network::new();
        let user = UserServiceClient::new(network.client("user"));
        let world = Self { folder, network, user };
        world.start().await;
        world
    }

    /// Starts the service, or starts it again over the same files.
    async fn start(&self) {
        self.network.remove("user");
        let cheap = UserConfig { argon2_memory_kib: 64, argon2_passes: 1, ..UserConfig::default() };
        self.network.serve("user", Users::open(&self.folder, &cheap).await.unwrap());
    }

    async fn register(&self, email: &str) -> Result<Response<RegisterResponse>, Error> {
        let request = RegisterRequest {
            email: email.into(),
            password: "correct horse".into(),
            name: "Ann".into(),
            ..Default::default()
        };
        self.user.register(request).await
    }

    async fn log_in(&self, email: &str, password: &str) -> Result<LogInResponse, Error> {
        let request = LogInRequest { email: email.into(), password: password.into(), ..Default::default() };
        self.user.log_in(request).await.map(Response::into_message)
    }

    async fn profile(&self, token: &str) -> Result<Profile, Error> {
        let call = self.user.get_profile(GetProfileRequest::default());
        let answer = call.metadata("authorization", &format!("Bearer {token}")).await?;
        Ok(answer.into_message().profile.into_option().unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[formic::test]
async fn register_log_in_read_and_update() {
    let world = World::new().await;
    let user_id = world.register("Ann@Example.com").await.unwrap().user_id.clone();
    let session = world.log_in("ann@example.com", "correct horse").await.unwrap();
    assert_eq!(session.user_id, user_id);

    let profile = world.profile(&session.token).await.unwrap();
    assert_eq!((profile.email.as_str(), profile.name.as_str()), ("ann@example.com", "Ann"));
    assert!(profile.address.as_option().is_none());

    let address = Address {
        street: "Lange Gasse 1".into(),
        city: "Wien".into(),
        postal_code: "1080".into(),
        country: "at".into(),
        ..Default::default()
    };
    let change = UpdateProfileRequest { address: MessageField::some(address), ..Default::default() };
    let updated = world
        .user
        .update_profile(change)
        .metadata("authorization", &format!("Bearer {}", session.token))
        .await
        .unwrap();
    assert_eq!(updated.profile.as_option().unwrap().name, "Ann", "what is not sent is not changed");
    let profile = world.profile(&session.token).await.unwrap();
    assert_eq!(profile.address.as_option().unwrap().country, "AT");
}

#[formic::test]
async fn a_wrong_password_and_an_unknown_email_look_alike() {
    let world = World::new().await;
    world.register("ann@example.com").await.unwrap();
    let wrong = world.log_in("ann@example.com", "wrong horse").await.unwrap_err();
    let unknown = world.log_in("bob@example.com", "correct horse").await.unwrap_err();
    let short = world.log_in("ann@example.com", "x").await.unwrap_err();
    assert_eq!(wrong.code(), Code::Unauthenticated);
    for other in [unknown, short] {
        assert_eq!(other.code(), wrong.code());
        assert_eq!(other.message(), wrong.message());
        assert_eq!(other.details(), wrong.details());
    }
}

#[formic::test]
async fn an_email_has_one_account_whatever_its_case() {
    let world = World::new().await;
    world.register("ann@example.com").await.unwrap();
    let error = world.register("ANN@example.com").await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);
    assert_eq!(error.fields()[0].field, "email");
}

#[formic::test]
async fn faults_of_a_registration_arrive_field_by_field() {
    let world = World::new().await;
    let error = world.user.register(RegisterRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let fields: Vec<_> = error.fields().into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["email", "password", "name"]);
}

#[formic::test]
async fn a_profile_needs_a_token_of_this_service() {
    let world = World::new().await;
    world.register("ann@example.com").await.unwrap();
    let token = world.log_in("ann@example.com", "correct horse").await.unwrap().token;

    let error = world.user.get_profile(GetProfileRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(error.info().unwrap().reason, "TOKEN_MISSING");

    let forger = shop_token::Signer::from_seed(&[1; 32]);
    let forged = forger.issue("usr_1", "ann@example.com", 1_800_000_000, 1_000_000_000);
    assert_eq!(world.profile(&forged).await.unwrap_err().info().unwrap().reason, "TOKEN_KEY_UNKNOWN");
    let (payload, _) = token.split_once('.').unwrap();
    let (_, signature) = forged.split_once('.').unwrap();
    let error = world.profile(&format!("{payload}.{signature}")).await.unwrap_err();
    assert_eq!(error.info().unwrap().reason, "TOKEN_SIGNATURE_WRONG");
}

#[formic::test]
async fn other_services_verify_tokens_by_themselves() {
    let world = World::new().await;
    let user_id = world.register("ann@example.com").await.unwrap().user_id.clone();
    let token = world.log_in("ann@example.com", "correct horse").await.unwrap().token;

    let verifier = Verifier::new(world.network.client("user"));
    assert_eq!(verifier.verify(&token).await.unwrap().sub, user_id);
    // Once the keys are known, the user service may be away.
    world.network.remove("user");
    assert_eq!(verifier.verify(&token).await.unwrap().sub, user_id);
    // Whoever does not know them yet says so, and does not call the token wrong.
    let newcomer = Verifier::new(world.network.client("user"));
    assert_eq!(newcomer.verify(&token).await.unwrap_err().code(), Code::Unavailable);
}

#[formic::test]
async fn accounts_and_sessions_survive_a_restart() {
    let world = World::new().await;
    world.register("ann@example.com").await.unwrap();
    let token = world.log_in("ann@example.com", "correct horse").await.unwrap().token;
    world.start().await;
    assert_eq!(world.profile(&token).await.unwrap().email, "ann@example.com");
    world.log_in("ann@example.com", "correct horse").await.unwrap();
}
