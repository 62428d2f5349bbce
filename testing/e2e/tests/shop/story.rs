//! What a customer lives through, told by `buy.sh` and checked one by one.

use std::sync::Arc;
use std::time::Duration;

use formic_e2e::{
    App, Customer, Gateway, Manifest, Order, Shared, Signal, Tool, program, repository, signal, wait_for,
    wait_until,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

static SHOP: Shared = Shared::new();

fn shop() -> Arc<App> {
    SHOP.get(App::shop)
}

#[test]
fn buy_sh_tells_the_whole_story() {
    if let Err(absent) = program("curl", "--version") {
        formic_testing::skipped("buy_sh_tells_the_whole_story", &absent.0);
        return;
    }
    let app = shop();
    let script = repository().join("examples/shop/buy.sh");
    let told = Tool::new(&script).args([app.gateway().url()]).good();
    let story = told.stdout.to_lowercase();
    for part in ["lamp", "cart", "confirmed"] {
        assert!(story.contains(part), "{part:?} is not in the story:\n{}", told.stdout);
    }
    // A second customer lives through the same.
    let again = Tool::new(&script).args([app.gateway().url()]).good();
    assert!(again.stdout.to_lowercase().contains("confirmed"));
}

#[test]
fn an_order_is_confirmed_step_by_step_and_its_parts_agree() {
    let app = shop();
    let books = app.books();
    let customer = Customer::new(app.gateway());
    let before = books.available("arc-desk-lamp");
    customer.add("arc-desk-lamp", 2);
    let answer = customer.place(&Order::good("first")).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let order = answer.json()["order"].clone();
    assert_eq!((&order["state"], &order["cardLastFour"]), (&json!("ORDER_STATE_CONFIRMED"), &json!("4242")));
    let id = order["orderId"].as_str().unwrap();
    let states: Vec<String> = customer.story(id).into_iter().map(|(state, _)| state).collect();
    let mut steps = states.clone();
    steps.dedup();
    let all = ["PLACED", "STOCK_RESERVED", "PAYMENT_AUTHORIZED", "PAID", "SHIPPING_BOOKED", "CONFIRMED"];
    assert_eq!(steps, all);
    assert_eq!(books.parts(id), ["COMMITTED", "CAPTURED", "BOOKED"]);
    assert_eq!(books.available("arc-desk-lamp"), before - 2);

    // The same request again is the same order.
    let again = customer.place(&Order::good("first")).unwrap();
    assert_eq!((again.status, &again.json()["order"]), (200, &order));
    assert_eq!(customer.orders().len(), 1);
    assert_eq!(books.available("arc-desk-lamp"), before - 2);
    let other = Order { postal_code: "20095", ..Order::good("first") };
    let other = customer.place(&other).unwrap();
    assert_eq!((other.status, &other.json()["code"]), (409, &json!("already_exists")));

    // Cancelled, it is as if it had never been.
    let cancelled = customer.cancel(id).unwrap();
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_eq!(cancelled.json()["order"]["state"], "ORDER_STATE_UNDONE");
    assert_eq!(books.parts(id), ["RELEASED", "REFUNDED", "CANCELLED"]);
    assert_eq!(books.available("arc-desk-lamp"), before);
}

#[test]
fn an_order_that_a_step_refuses_is_undone_in_reverse() {
    let app = shop();
    let books = app.books();
    let cases = [
        (
            Order { card: "4000000000000002", ..Order::good("declined") },
            "declined",
            ["RELEASED", "DECLINED", "none"],
        ),
        (
            Order { postal_code: "27498", ..Order::good("helgoland") },
            "address",
            ["RELEASED", "REFUNDED", "none"],
        ),
    ];
    for (order, word, parts) in cases {
        let customer = Customer::new(app.gateway());
        let before = books.available("smoked-glass-pendant");
        customer.add("smoked-glass-pendant", 1);
        let answer = customer.place(&order).unwrap();
        let error = answer.json();
        assert_eq!(error["code"], "failed_precondition", "{error}");
        let id = customer.orders()[0]["orderId"].as_str().unwrap().to_owned();
        let state = customer.story(&id).pop().unwrap().0;
        assert_eq!(state, "UNDONE", "{word}");
        let mut found = books.parts(&id);
        // Whether the parcel of a refused booking is unknown or remembered as cancelled is the services' own affair.
        if found[2] == "CANCELLED" {
            found[2] = "none".to_owned();
        }
        assert_eq!(found, parts, "{word}");
        assert_eq!(books.available("smoked-glass-pendant"), before, "{word}");
        let again = customer.place(&order).unwrap().json();
        assert_eq!(
            (&again["code"], &again["message"]),
            (&error["code"], &error["message"]),
            "the first answer again"
        );
    }
}

/// Thinks for three seconds and agrees; a step of an order waits for two.
const SLOW_CARD: &str = "4000000000000077";

#[test]
fn a_card_that_takes_longer_than_a_step_is_waited_for() {
    let app = shop();
    let books = app.books();
    let customer = Customer::new(app.gateway());
    let before = books.available("night-lamp-fox");
    customer.add("night-lamp-fox", 1);
    let answer = customer.place(&Order { card: SLOW_CARD, ..Order::good("slow") }).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let order = answer.json()["order"].clone();
    assert_eq!(order["state"], "ORDER_STATE_CONFIRMED");
    let id = order["orderId"].as_str().unwrap();
    let story = customer.story(id);
    let since = |state: &str| story.iter().find(|(name, _)| name == state).unwrap().1;
    let thought = since("PAYMENT_AUTHORIZED") - since("STOCK_RESERVED");
    assert!(thought > 2000, "the first try of the step cannot have been enough: {story:?}");
    assert_eq!(books.parts(id), ["COMMITTED", "CAPTURED", "BOOKED"]);
    assert_eq!(books.available("night-lamp-fox"), before - 1, "bought once, however often it was asked for");
    assert_eq!(customer.orders().len(), 1);
}

#[test]
fn payment_may_die_while_a_card_takes_its_time() {
    // Long enough to be looked at meanwhile, on a busy machine too.
    let mut app = App::start(&Manifest::shop().set("service.payment.config", "slow_card_delay_ms", "8000"));
    let customer = Customer::new(app.gateway());
    let books = app.books();
    let (before, old) = (books.available("night-lamp-fox"), app.pid_of("payment"));
    let payment = Gateway { authority: app.address_of("payment") };
    customer.add("night-lamp-fox", 1);
    let order = Order { card: SLOW_CARD, ..Order::good("dying") };
    let placing = std::thread::spawn({
        let customer = customer.clone();
        move || customer.place(&order)
    });
    let reserved = wait_for("the payment to be asked for", SOON, || {
        let mut orders = customer.orders();
        orders.retain(|order| order["state"] == "ORDER_STATE_STOCK_RESERVED");
        orders.pop()
    });
    let id = reserved["orderId"].as_str().unwrap();
    let asked = r#"formic_server_in_flight{service="shop.payment.v1.PaymentService",method="Authorize"} 1"#;
    wait_until("payment to be asked", SOON, || {
        payment.send("GET", "/metrics", &[], b"").unwrap().text().contains(asked)
    });
    // While the processor thinks: nothing of the payment is written down yet.
    assert_eq!(books.parts(id)[1], "none");
    assert!(signal(old, Signal::KILL));
    app.wait_restarted("payment", old);

    // All or nothing, and here it is all: the card is kept by order, which asks again.
    let end = customer.story(id).pop().unwrap().0;
    let (parts, available) = (app.books().parts(id), app.books().available("night-lamp-fox"));
    assert_eq!(end, "CONFIRMED", "{parts:?}");
    assert_eq!((parts, available), (["COMMITTED", "CAPTURED", "BOOKED"].map(Into::into), before - 1));
    let answer = placing.join().unwrap().unwrap();
    assert_eq!((answer.status, &answer.json()["order"]["orderId"]), (200, &json!(id)), "{}", answer.text());
    app.stop();
}

#[test]
fn nobody_sees_what_is_not_theirs() {
    let app = shop();
    let ada = Customer::new(app.gateway());
    ada.add("bankers-lamp", 1);
    let placed = ada.place(&Order::good("mine")).unwrap();
    let id = placed.json()["order"]["orderId"].clone();
    let eve = Customer::new(app.gateway());
    assert!(eve.orders().is_empty());
    for method in ["Get", "Cancel", "Track"] {
        let path = format!("shop.order.v1.OrderService/{method}");
        let answer = app.gateway().try_call(&path, &json!({ "orderId": id }), Some(&eve.token)).unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("not_found")), "{method}");
        let answer = app.gateway().try_call(&path, &json!({ "orderId": id }), None).unwrap();
        assert_eq!(answer.status, 401, "{method}");
        let forged = app.gateway().try_call(&path, &json!({ "orderId": id }), Some("e30.e30.e30")).unwrap();
        assert_eq!(forged.status, 401, "{method}");
    }
    let empty = eve.place(&Order::good("nothing")).unwrap();
    assert_eq!(empty.json()["code"], "failed_precondition", "an empty cart");
}

#[test]
fn the_catalogue_is_large_and_searched() {
    let app = shop();
    let mut seen = std::collections::BTreeSet::new();
    let mut token = String::new();
    loop {
        let request = json!({ "limit": 100, "pageToken": token });
        let page = app.gateway().call("shop.product.v1.ProductService/List", &request, None);
        let ids = page["products"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert!(seen.len() >= 200, "{} products", seen.len());
}
