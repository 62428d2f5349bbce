//! The whole shop in memory, over a folder that is gone with the test; services that fail on demand; and an order service
//! that can be killed at any moment and started again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use formic::prelude::*;
use formic_testing::faults::Rule;
use formic_testing::{Fault, Faults, Network, wait_for, wait_until};
use shop_order::proto::{
    Address, Card, GetRequest, Order, OrderServiceClient, OrderState, PlaceRequest, PlaceResponse,
    WatchRequest, WatchResponse,
};
use shop_order::{Channels, Config, Orders};
use shop_payment::Payments;
use shop_payment::proto::{self as payment, PaymentServiceClient, PaymentState};
use shop_product::proto::{self as product, ProductServiceClient, ReservationState};
use shop_product::{ProductConfig, Products};
use shop_shipping::Shipments;
use shop_shipping::proto::{self as shipping, ShipmentState, ShippingServiceClient};
use shop_token::Verifier;
use shop_user::proto::{LogInRequest, RegisterRequest, UserServiceClient};
use shop_user::{UserConfig, Users};
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LAMP: &str = "arc-desk-lamp";
pub(crate) const GOOD_CARD: &str = "4242 4242 4242 4242";
pub(crate) const DECLINED_CARD: &str = "4000 0000 0000 0002";

pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) network: Network,
    pub(crate) faults: Faults,
    pub(crate) order: OrderServiceClient,
    pub(crate) product: ProductServiceClient,
    pub(crate) payment: PaymentServiceClient,
    pub(crate) shipping: ShippingServiceClient,
    verifier: Verifier,
    config: Config,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// A logged-in customer.
pub(crate) struct Customer {
    pub(crate) authorization: String,
}

pub(crate) fn quick() -> Config {
    Config { retry_first_ms: 5, retry_max_ms: 50, step_timeout_ms: 20_000, ..Config::default() }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(quick(), shop_shipping::Config::default(), shop_payment::Config::default()).await
    }

    pub(crate) async fn with(
        config: Config,
        shipping_config: shop_shipping::Config,
        payment_config: shop_payment::Config,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("shop-order-world-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let network = Network::new();
        let cheap = UserConfig { argon2_memory_kib: 64, argon2_passes: 1, ..UserConfig::default() };
        let users = Users::open(&folder, &cheap).await.unwrap();
        let verifier = Verifier::with_keys(users.keys().clone());
        network.serve("user", users);
        let world = Self {
            faults: Faults::new(),
            order: OrderServiceClient::new(network.client("order")),
            product: ProductServiceClient::new(network.client("product")),
            payment: PaymentServiceClient::new(network.client("payment")),
            shipping: ShippingServiceClient::new(network.client("shipping")),
            folder,
            network,
            verifier,
            config,
            worker: Mutex::default(),
        };
        world.network.inject(&world.faults);
        world.start_product().await;
        world.start_payment(payment_config);
        world.start_shipping(shipping_config);
        world.start_order().await;
        world
    }

    pub(crate) async fn start_product(&self) {
        let config = ProductConfig::default();
        let products = Products::open(&self.folder, &config, self.verifier.clone()).await.unwrap();
        let server = product::ProductServiceServer::new(products);
        self.network.serve_handle("product", Arc::new(server), Vec::new());
    }

    pub(crate) fn start_payment(&self, config: shop_payment::Config) {
        let server = payment::PaymentServiceServer::new(Payments::open(&self.folder, config).unwrap());
        self.network.serve_handle("payment", Arc::new(server), Vec::new());
    }

    pub(crate) fn start_shipping(&self, config: shop_shipping::Config) {
        let server = shipping::ShippingServiceServer::new(Shipments::open(&self.folder, config).unwrap());
        self.network.serve_handle("shipping", Arc::new(server), Vec::new());
    }

    pub(crate) async fn start_order(&self) {
        let channels = Channels {
            product: self.network.client_of("order", "product"),
            payment: self.network.client_of("order", "payment"),
            shipping: self.network.client_of("order", "shipping"),
        };
        let (orders, worker) =
            Orders::open(&self.folder, self.config.clone(), self.verifier.clone(), channels).await.unwrap();
        self.network.serve("order", orders);
        let task = tokio::task::spawn(worker.run(std::future::pending()));
        *self.worker.lock().unwrap() = Some(task);
    }

    /// As by `kill -9`: whatever the process was about to do or to write, it does not.
    pub(crate) async fn kill_order(&self) {
        self.network.remove("order");
        let worker = self.worker.lock().unwrap().take().unwrap();
        worker.abort();
        assert!(worker.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn customer(&self, email: &str) -> Customer {
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
        Customer { authorization: format!("Bearer {}", session.token) }
    }

    /// A customer with two lamps in the cart.
    pub(crate) async fn shopper(&self) -> Customer {
        let customer = self.customer("ann@example.com").await;
        self.fill_cart(&customer, 2).await;
        customer
    }

    pub(crate) async fn fill_cart(&self, customer: &Customer, quantity: u32) {
        let request = product::AddToCartRequest { product_id: LAMP.into(), quantity, ..Default::default() };
        self.product.add_to_cart(request).metadata("authorization", &customer.authorization).await.unwrap();
    }

    pub(crate) async fn cart_size(&self, customer: &Customer) -> usize {
        let request = product::ViewCartRequest::default();
        let answer =
            self.product.view_cart(request).metadata("authorization", &customer.authorization).await.unwrap();
        answer.cart.lines.len()
    }

    pub(crate) async fn place(
        &self,
        customer: &Customer,
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Error> {
        let call =
            self.order.place(request).metadata("authorization", &customer.authorization).timeout(PATIENCE);
        call.await.map(Response::into_message)
    }

    pub(crate) async fn get(&self, customer: &Customer, order_id: &str) -> Order {
        let request = GetRequest { order_id: order_id.into(), ..Default::default() };
        let answer =
            self.order.get(request).metadata("authorization", &customer.authorization).await.unwrap();
        answer.order.as_option().cloned().unwrap()
    }

    /// The only order there is, once the one that was placed is written down.
    pub(crate) async fn the_order(&self, customer: &Customer) -> Order {
        wait_for("an order", PATIENCE, || async {
            let request = shop_order::proto::ListRequest::default();
            let answer =
                self.order.list(request).metadata("authorization", &customer.authorization).await.ok()?;
            answer.orders.first().cloned()
        })
        .await
    }

    /// Waits until the order is confirmed or undone.
    pub(crate) async fn settled(&self, customer: &Customer, order_id: &str) -> OrderState {
        let story = self.story(customer, order_id, false).await;
        story.last().unwrap().state.as_known().unwrap()
    }

    pub(crate) async fn story(
        &self,
        customer: &Customer,
        order_id: &str,
        from_start: bool,
    ) -> Vec<WatchResponse> {
        let request = WatchRequest { order_id: order_id.into(), from_start, ..Default::default() };
        let call =
            self.order.watch(request).metadata("authorization", &customer.authorization).timeout(PATIENCE);
        let mut stream = call.await.unwrap().into_message();
        let mut story = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            story.push(message);
        }
        story
    }

    /// The next calls of a method meet these, one after the other.
    pub(crate) fn befall(&self, method: &str, faults: &[Fault]) {
        for fault in faults {
            let _: Rule = self.faults.calls().method(method).meet(fault.clone());
        }
    }

    pub(crate) async fn faults_used(&self) {
        wait_until("the faults to happen", PATIENCE, || self.faults.left() == 0).await;
    }

    pub(crate) async fn available(&self) -> i64 {
        let request = product::GetRequest { id: LAMP.into(), ..Default::default() };
        self.product.get(request).await.unwrap().product.available
    }

    pub(crate) async fn stock(&self, order_id: &str) -> Option<ReservationState> {
        let request = product::GetReservationRequest {
            reservation_id: format!("stock-{order_id}"),
            ..Default::default()
        };
        let answer = self.product.get_reservation(request).await;
        found(answer).map(|answer| answer.reservation.state.as_known().unwrap())
    }

    pub(crate) async fn money(&self, order_id: &str) -> Option<PaymentState> {
        let request = payment::GetRequest { payment_id: format!("payment-{order_id}"), ..Default::default() };
        found(self.payment.get(request).await).map(|answer| answer.payment.state.as_known().unwrap())
    }

    pub(crate) async fn parcel(&self, order_id: &str) -> Option<ShipmentState> {
        let request =
            shipping::TrackRequest { shipment_id: format!("parcel-{order_id}"), ..Default::default() };
        found(self.shipping.track(request).await).map(|answer| answer.shipment.state.as_known().unwrap())
    }

    /// Everything of the order took place: in the three services, and not only in this one's books.
    pub(crate) async fn assert_whole(&self, order_id: &str) {
        assert_eq!(self.stock(order_id).await, Some(ReservationState::Committed));
        assert_eq!(self.money(order_id).await, Some(PaymentState::Captured));
        assert_eq!(self.parcel(order_id).await, Some(ShipmentState::Booked));
    }

    /// Nothing of it is left.
    pub(crate) async fn assert_nothing(&self, order_id: &str) {
        let stock = self.stock(order_id).await;
        assert!(matches!(stock, None | Some(ReservationState::Released)), "{stock:?}");
        let money = self.money(order_id).await;
        let returned = matches!(
            money,
            None | Some(PaymentState::Voided | PaymentState::Refunded | PaymentState::Declined)
        );
        assert!(returned, "{money:?}");
        let parcel = self.parcel(order_id).await;
        assert!(matches!(parcel, None | Some(ShipmentState::Cancelled)), "{parcel:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.get_mut().unwrap().take() {
            worker.abort();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn found<T>(answer: Result<Response<T>, Error>) -> Option<Response<T>> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) if error.code() == Code::NotFound => None,
        Err(error) => panic!("{error:?}"),
    }
}

pub(crate) fn request(key: &str, number: &str) -> PlaceRequest {
    let card =
        Card { number: number.into(), expiry: "12/34".into(), cvc: "123".into(), ..Default::default() };
    PlaceRequest {
        idempotency_key: key.into(),
        card: card.into(),
        address: home().into(),
        ..Default::default()
    }
}

pub(crate) fn home() -> Address {
    Address {
        name: "Ann".into(),
        street: "Weg 1".into(),
        city: "Berlin".into(),
        postal_code: "10115".into(),
        country: "DE".into(),
        ..Default::default()
    }
}

/// The same to a country where no parcels go.
pub(crate) fn far_away(key: &str) -> PlaceRequest {
    let address = Address { country: "XX".into(), ..home() };
    PlaceRequest { address: address.into(), ..request(key, GOOD_CARD) }
}

pub(crate) fn reason(error: &Error) -> String {
    error.info().map(|info| info.reason).unwrap_or_default()
}

pub(crate) fn order_id(error: &Error) -> String {
    let metadata = error.info().map(|info| info.metadata).unwrap_or_default();
    metadata.into_iter().find(|(key, _)| key == "order_id").map(|(_, id)| id).unwrap()
}
