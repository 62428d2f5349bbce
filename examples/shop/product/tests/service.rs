//! The product service as its callers see it, in memory, beside the user service whose tokens it believes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use formic::Codec;
use formic::prelude::*;
use formic_testing::Network;
use shop_product::proto::*;
use shop_product::{ProductConfig, Products};
use shop_token::Verifier;
use shop_user::proto::{LogInRequest, RegisterRequest, UserServiceClient};
use shop_user::{UserConfig, Users};

const LAMP: &str = "arc-desk-lamp";
const SOFA: &str = "two-seat-sofa";

/// Both services over a folder that is gone when the test is over.
struct World {
    folder: PathBuf,
    network: Network,
    product: ProductServiceClient,
}

impl World {
    async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("shop-product-service-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let network = Network::new();
        let verifier = Verifier::new(network.client("user"));
        let products = Products::open(&folder, &ProductConfig::default(), verifier).await.unwrap();
        network.serve("product", products);
        let product = ProductServiceClient::new(network.client("product"));
        let world = Self { folder, network, product };
        world.start_user().await;
        world
    }

    async fn start_user(&self) {
        let cheap = UserConfig { argon2_memory_kib: 64, argon2_passes: 1, ..UserConfig::default() };
        self.network.serve("user", Users::open(&self.folder, &cheap).await.unwrap());
    }

    /// A new user's `authorization`.
    async fn log_in(&self, email: &str) -> String {
        let user = UserServiceClient::new(self.network.client("user"));
        let (email, password) = (email.to_owned(), "correct horse".to_owned());
        let account = RegisterRequest {
            email: email.clone(),
            password: password.clone(),
            name: "Ann".into(),
            ..Default::default()
        };
        user.register(account).await.unwrap();
        let session = user.log_in(LogInRequest { email, password, ..Default::default() }).await.unwrap();
        format!("Bearer {}", session.token)
    }

    async fn add(&self, authorization: &str, product_id: &str, quantity: u32) -> Result<Cart, Error> {
        let request = AddToCartRequest { product_id: product_id.into(), quantity, ..Default::default() };
        let answer = self.product.add_to_cart(request).metadata("authorization", authorization).await?;
        Ok(answer.into_message().cart.into_option().unwrap())
    }

    async fn cart(&self, authorization: &str) -> Result<Cart, Error> {
        let call = self.product.view_cart(ViewCartRequest::default());
        let answer = call.metadata("authorization", authorization).await?;
        Ok(answer.into_message().cart.into_option().unwrap())
    }

    async fn reserve(&self, id: &str, product_id: &str, quantity: u32) -> Result<Reservation, Error> {
        let item = Item { product_id: product_id.into(), quantity, ..Default::default() };
        let request = ReserveRequest {
            reservation_id: id.into(),
            order_id: "o1".into(),
            items: vec![item],
            ..Default::default()
        };
        let answer = self.product.reserve(request).await?;
        Ok(answer.into_message().reservation.into_option().unwrap())
    }

    async fn release(&self, id: &str) -> Result<Response<ReleaseResponse>, Error> {
        self.product.release(ReleaseRequest { reservation_id: id.into(), ..Default::default() }).await
    }

    async fn commit(&self, id: &str) -> Result<Response<CommitResponse>, Error> {
        self.product.commit(CommitRequest { reservation_id: id.into(), ..Default::default() }).await
    }

    async fn available(&self, id: &str) -> i64 {
        let answer = self.product.get(GetRequest { id: id.into(), ..Default::default() }).await.unwrap();
        answer.product.as_option().unwrap().available
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn reason(error: &Error) -> String {
    error.info().map(|info| info.reason).unwrap_or_default()
}

#[formic::test]
async fn lamps_are_found_page_by_page_in_protobuf_and_json() {
    let world = World::new().await;
    for codec in [Codec::Proto, Codec::Json] {
        let product = ProductServiceClient::new(world.network.client("product").with_codec(codec));
        let ask = |page_token: &str| SearchRequest {
            text: "Lamp".into(),
            limit: 5,
            page_token: page_token.into(),
            ..Default::default()
        };
        let first = product.search(ask("")).await.unwrap();
        assert_eq!(first.products.len(), 5);
        assert!(first.products[0].name.contains("Lamp"));
        assert_eq!(first.products[0].price.as_option().unwrap().currency, "EUR");
        let second = product.search(ask(&first.next_page_token)).await.unwrap();
        assert!(
            second.products.iter().all(|product| first.products.iter().all(|seen| seen.id != product.id))
        );

        let error = product.search(ask("nonsense")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.fields()[0].field, "page_token");
    }
}

#[formic::test]
async fn categories_lead_to_their_products() {
    let world = World::new().await;
    let categories = world.product.categories(CategoriesRequest::default()).await.unwrap();
    assert!(categories.categories.len() >= 5);
    for category in &categories.categories {
        let request = ListRequest { category: category.name.clone(), limit: 100, ..Default::default() };
        let listed = world.product.list(request).await.unwrap();
        assert_eq!(u32::try_from(listed.products.len()).unwrap(), category.products, "{}", category.name);
    }
    let error =
        world.product.get(GetRequest { id: "no-such-thing".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.resource().unwrap().resource_name, "no-such-thing");
}

#[formic::test]
async fn a_cart_is_its_users_own() {
    let world = World::new().await;
    let (ann, bob) = (world.log_in("ann@example.com").await, world.log_in("bob@example.com").await);
    world.add(&ann, LAMP, 2).await.unwrap();
    let cart = world.add(&ann, SOFA, 0).await.unwrap();
    assert_eq!(cart.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(cart.total.as_option().unwrap().minor_units, 2 * 4990 + 79900);
    assert_eq!(world.cart(&ann).await.unwrap(), cart);
    assert!(world.cart(&bob).await.unwrap().lines.is_empty());

    let error = world.add(&ann, LAMP, 98).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.fields()[0].field, "quantity");
    assert_eq!(world.add(&ann, "no-such-thing", 1).await.unwrap_err().code(), Code::NotFound);

    let clear = ClearCartRequest { if_version: cart.version, ..Default::default() };
    let cleared = world.product.clear_cart(clear).metadata("authorization", &ann).await.unwrap();
    assert!(cleared.cart.as_option().unwrap().lines.is_empty());
}

#[formic::test]
async fn a_cart_needs_a_token_and_the_keys_to_check_it() {
    let world = World::new().await;
    let error = world.product.view_cart(ViewCartRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unauthenticated, "TOKEN_MISSING"));

    let ann = world.log_in("ann@example.com").await;
    world.network.remove("user");
    assert_eq!(world.cart(&ann).await.unwrap_err().code(), Code::Unavailable);
    world.start_user().await;
    world.cart(&ann).await.unwrap();
    world.network.remove("user");
    world.cart(&ann).await.unwrap();
    let error = world.cart("Bearer forged").await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unauthenticated, "TOKEN_MALFORMED"));
}

#[formic::test]
async fn a_sagas_steps_may_be_repeated_and_overtaken() {
    let world = World::new().await;
    let before = world.available(LAMP).await;
    let held = world.reserve("r1", LAMP, 3).await.unwrap();
    assert_eq!(held.state, ReservationState::RESERVATION_STATE_HELD);
    assert_eq!(held.total.as_option().unwrap().minor_units, 3 * 4990);
    assert_eq!(world.reserve("r1", LAMP, 3).await.unwrap(), held);
    assert_eq!(world.available(LAMP).await, before - 3);
    assert_eq!(reason(&world.reserve("r1", LAMP, 4).await.unwrap_err()), "RESERVATION_MISMATCH");

    world.commit("r1").await.unwrap();
    let committed = world.commit("r1").await.unwrap();
    let state = committed.reservation.as_option().unwrap().state;
    assert_eq!(state, ReservationState::RESERVATION_STATE_COMMITTED);
    world.release("r1").await.unwrap();
    world.release("r1").await.unwrap();
    assert_eq!(world.available(LAMP).await, before);
    assert_eq!(reason(&world.commit("r1").await.unwrap_err()), "RESERVATION_RELEASED");

    world.release("late").await.unwrap();
    let error = world.reserve("late", LAMP, 1).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "RESERVATION_RELEASED"));
    assert_eq!(world.available(LAMP).await, before);
    assert_eq!(world.commit("unknown").await.unwrap_err().code(), Code::NotFound);
}

#[formic::test]
async fn what_is_not_there_cannot_be_reserved() {
    let world = World::new().await;
    let stock = world.available(SOFA).await;
    let error = world.reserve("r1", SOFA, 99).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let info = error.info().unwrap();
    assert_eq!(info.reason, "OUT_OF_STOCK");
    let told = |key: &str| info.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    assert_eq!(told("product_id"), Some(SOFA.to_owned()));
    assert_eq!(told("available"), Some(stock.to_string()));
    let error = world.product.reserve(ReserveRequest::default()).await.unwrap_err();
    let fields: Vec<_> = error.fields().into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields, ["reservation_id", "order_id", "items"]);
}

#[formic::test]
async fn stock_is_not_moved_from_outside() {
    let world = World::new().await;
    let before = world.available(LAMP).await;
    let item = Item { product_id: LAMP.into(), quantity: 1, ..Default::default() };
    let request = ReserveRequest {
        reservation_id: "r1".into(),
        order_id: "o1".into(),
        items: vec![item],
        ..Default::default()
    };
    let error = world.product.reserve(request).metadata("x-forwarded-for", "203.0.113.7").await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    world.reserve("r1", LAMP, 1).await.unwrap();
    let release = ReleaseRequest { reservation_id: "r1".into(), ..Default::default() };
    let error = world.product.release(release).metadata("x-forwarded-for", "203.0.113.7").await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert_eq!(world.available(LAMP).await, before - 1);
}
