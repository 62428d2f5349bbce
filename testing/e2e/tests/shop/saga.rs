//! `kill -9` of each service while orders are in every step: each order ends confirmed or fully undone, and the books of
//! product, payment and shipping agree with it.
//!
//! Order is told to pause before and after each step, on the way forward and on the way back. Orders are started one
//! pause apart, so that at one moment there is one in each of the ten pauses forward and of the six back; then the service
//! dies. The journals' times say afterwards in which state the blow met each order, and waves are repeated until each
//! state was met.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use formic_e2e::{App, Customer, Manifest, Order, Signal, signal};
use serde_json::json;

/// Before and after each step.
const PAUSE: Duration = Duration::from_millis(160);
const STEPS: [&str; 8] = [
    "reserve",
    "authorize",
    "capture",
    "book",
    "commit",
    "cancel_shipment",
    "return_payment",
    "release_stock",
];
/// Pauses of an order on its way forward, and back.
const FORWARD: u32 = 10;
const BACK: u32 = 6;
/// The states in which an order can be half done.
const HALF_DONE: [&str; 6] =
    ["PLACED", "STOCK_RESERVED", "PAYMENT_AUTHORIZED", "PAID", "SHIPPING_BOOKED", "UNDOING"];
/// As many as a busy machine may need, on which orders are behind their time.
const MOST_WAVES: usize = 24;
/// For one order, through a crash and a restart.
const PATIENCE: Duration = Duration::from_secs(180);
const QUANTITY: u32 = 2;

#[test]
fn orders_survive_the_death_of_payment() {
    survive("payment");
}

#[test]
fn orders_survive_the_death_of_product() {
    survive("product");
}

#[test]
fn orders_survive_the_death_of_shipping() {
    survive("shipping");
}

#[test]
fn orders_survive_the_death_of_user() {
    survive("user");
}

#[test]
fn orders_survive_the_death_of_order() {
    survive("order");
}

fn shop() -> Manifest {
    let pause = PAUSE.as_millis().to_string();
    let mut manifest = Manifest::shop()
        // What is tested here is not the strength of password hashes, and there are many customers.
        .set("service.user.config", "argon2_memory_kib", "64")
        .set("service.user.config", "argon2_passes", "1")
        // Quick to try again, so that the test is.
        .set("service.order.config", "step_timeout_ms", "1000")
        .set("service.order.config", "retry_first_ms", "50")
        .set("service.order.config", "retry_max_ms", "200")
        // A parcel under way cannot be called off, and turns the order forward again.
        .set("service.shipping.config", "picked_after_ms", "3000000")
        .set("service.shipping.config", "in_transit_after_ms", "3000000")
        .set("service.shipping.config", "delivered_after_ms", "3000000");
    for step in STEPS {
        for place in ["before", "after"] {
            manifest = manifest.set("service.order.config.step_delay", &format!("{place}_{step}"), &pause);
        }
    }
    for service in ["user", "product", "payment", "shipping", "order"] {
        manifest = manifest.set(&format!("service.{service}.restart"), "delay", "\"50ms\"");
    }
    manifest
}

/// A customer with one order, of a product that nobody else buys.
struct Buyer {
    customer: Customer,
    product: String,
    before: i64,
    order: Order,
    /// Calls the order off once it is confirmed.
    cancels: bool,
    id: String,
}

fn survive(victim: &str) {
    let mut app = App::start(&shop());
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for wave in 0..MOST_WAVES {
        for (state, orders) in one_wave(&app, victim, wave) {
            *met.entry(state).or_default() += orders;
        }
        if HALF_DONE.iter().all(|state| met.contains_key(*state)) {
            break;
        }
    }
    for state in HALF_DONE {
        assert!(met.contains_key(state), "no order was hit in {state}, which proves nothing: {met:?}");
    }
    app.stop();
}

/// Kills the service once; returns how many orders were in which state at that moment.
fn one_wave(app: &App, victim: &str, wave: usize) -> BTreeMap<String, usize> {
    let mut buyers = buyers(app, wave);
    let (cancelling, placing) = buyers.split_at_mut(BACK as usize);

    thread::scope(|scope| {
        for buyer in cancelling.iter_mut() {
            scope.spawn(|| buyer.place());
        }
    });
    for buyer in cancelling.iter() {
        assert_eq!(buyer.customer.story(&buyer.id).pop().unwrap().0, "CONFIRMED");
    }

    let old = app.pid_of(victim);
    let start = Instant::now();
    let at = |pauses: u32| start + PAUSE * pauses;
    let killed_at = thread::scope(|scope| {
        for (number, buyer) in (0..).zip(placing.iter_mut()) {
            scope.spawn(move || {
                sleep_until(at(number));
                buyer.place();
            });
        }
        for (number, buyer) in (0..).zip(cancelling.iter_mut()) {
            scope.spawn(move || {
                sleep_until(at(FORWARD - BACK + 1 + number));
                buyer.cancel();
            });
        }
        sleep_until(at(FORWARD) + PAUSE / 2);
        assert!(signal(old, Signal::KILL), "{victim} is gone already");
        let killed_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        app.wait_restarted(victim, old);
        i64::try_from(killed_at).unwrap()
    });

    let mut met = BTreeMap::new();
    let books = app.books();
    for buyer in &buyers {
        let story = buyer.customer.story(&buyer.id);
        let state_then = story.iter().rev().find(|(_, at)| *at <= killed_at).map(|(state, _)| state.clone());
        *met.entry(state_then.unwrap_or_else(|| "not placed".to_owned())).or_default() += 1;

        let told = format!("{victim} killed at {killed_at}; {} {story:?}", buyer.id);
        let end = story.last().unwrap().0.as_str();
        let parts = books.parts(&buyer.id);
        let available = books.available(&buyer.product);
        match end {
            "CONFIRMED" => {
                assert!(!buyer.cancels, "it was called off: {told}");
                assert_eq!(parts, ["COMMITTED", "CAPTURED", "BOOKED"], "{told}");
                assert_eq!(available, buyer.before - i64::from(QUANTITY), "{told}");
            }
            "UNDONE" => {
                // A card is kept nowhere, so only order's own death can lose it; another's is waited out.
                assert!(buyer.cancels || victim == "order", "undone without a reason: {told}");
                assert!(["RELEASED", "none"].contains(&parts[0].as_str()), "{parts:?} {told}");
                assert!(["VOIDED", "REFUNDED", "none"].contains(&parts[1].as_str()), "{parts:?} {told}");
                assert!(["CANCELLED", "none"].contains(&parts[2].as_str()), "{parts:?} {told}");
                assert_eq!(available, buyer.before, "{told}");
            }
            other => panic!("half done, in {other}: {told}"),
        }
        assert_eq!(
            buyer.customer.orders().len(),
            1,
            "asked again with the same key, it is one order: {told}"
        );
    }
    met
}

fn buyers(app: &App, wave: usize) -> Vec<Buyer> {
    let page = app.gateway().call("shop.product.v1.ProductService/List", &json!({ "limit": 100 }), None);
    let available = |product: &serde_json::Value| product["available"].as_str()?.parse::<i64>().ok();
    let products: Vec<(String, i64)> = page["products"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|product| Some((product["id"].as_str()?.to_owned(), available(product)?)))
        .filter(|(_, available)| *available >= i64::from(QUANTITY))
        .collect();
    let count = (FORWARD + BACK) as usize;
    assert!(products.len() >= count);
    assert_eq!(products.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), products.len());
    (0..count)
        .zip(products)
        .map(|(number, (product, before))| {
            let customer = Customer::new(app.gateway());
            customer.add(&product, QUANTITY);
            let order = Order::good(&format!("wave-{wave}-{number}"));
            Buyer { customer, product, before, order, cancels: number < BACK as usize, id: String::new() }
        })
        .collect()
}

fn sleep_until(then: Instant) {
    thread::sleep(then.saturating_duration_since(Instant::now()));
}

impl Buyer {
    /// Orders, and asks again with the same key as any customer would until there is an answer.
    fn place(&mut self) {
        let start = Instant::now();
        loop {
            let answer = self.customer.place(&self.order);
            if let Ok(answer) = &answer {
                let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                if answer.status == 200 {
                    self.id = body["order"]["orderId"].as_str().unwrap().to_owned();
                    return;
                }
                if body["code"] == "failed_precondition" {
                    self.id = self.customer.orders()[0]["orderId"].as_str().unwrap().to_owned();
                    return;
                }
            }
            assert!(start.elapsed() < PATIENCE, "no answer to Place: {answer:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Calls the order off, likewise.
    fn cancel(&mut self) {
        let start = Instant::now();
        loop {
            let answer = self.customer.cancel(&self.id);
            if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no answer to Cancel: {answer:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}
