//! Calls from the command line that do not come to their end by themselves.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use formic_e2e::{App, Customer, Following, Gateway, Manifest, Order, Signal, formic, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn ctrl_c_cancels_a_call() {
    let manifest = Manifest::shop().set("service.payment.config", "slow_card_delay_ms", "600000");
    let mut app = App::start(&manifest);
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 1);
    // Not confirmed as long as this test lasts.
    let slow = Order { card: "4000000000000077", ..Order::good("endless") };
    let placing = std::thread::spawn({
        let customer = customer.clone();
        move || customer.place(&slow)
    });
    let order = wait_for("the order", SOON, || customer.orders().pop());

    let (folder, bearer) = (app.folder(), format!("Authorization: Bearer {}", customer.token));
    let request = json!({ "orderId": order["orderId"], "fromStart": true }).to_string();
    let args = ["call", "--app", folder.to_str().unwrap(), "--timeout", "5m", "--json", "-H", &bearer];
    let args = [&args[..], &["shop.order.v1.OrderService/Watch", &request]].concat();
    let mut watching = Following::start(formic(&args));
    watching.wait_shown("ORDER_STATE_PLACED", SOON);
    // As somebody does who has seen enough.
    watching.signal(Signal::INT);
    let ended = watching.wait_end(SOON);
    assert_eq!(ended.code(), Some(130), "{}", watching.said());
    // An application that is slow to answer is waited for, and that is said.
    let told = watching.told();
    let wrong: Vec<&str> = told.lines().filter(|line| !line.contains("does not answer yet")).collect();
    assert_eq!(wrong, [""; 0], "nothing went wrong");

    let metrics = Gateway { authority: app.address_of("order") };
    let of = |name: &str, rest: &str| {
        format!("{name}{{service=\"shop.order.v1.OrderService\",method=\"Watch\"{rest}}}")
    };
    let gone = [
        format!("{} 0", of("formic_server_in_flight", "")),
        format!("{} 1", of("formic_server_requests_total", ",code=\"canceled\"")),
    ];
    wait_for("the handler to be gone", SOON, || {
        let text = metrics.send("GET", "/metrics", &[], b"").unwrap().text();
        gone.iter().all(|line| text.contains(line)).then_some(())
    });
    let cancelled = customer.cancel(order["orderId"].as_str().unwrap()).unwrap();
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_ne!(placing.join().unwrap().unwrap().status, 200);
    app.stop();
}

#[test]
fn who_says_nothing_is_not_waited_for_beyond_the_time_that_was_given() {
    // The system takes its connections, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let began = Instant::now();
    let args = ["call", "shop.order.v1.OrderService/Watch", "--address", &address, "--timeout", "500ms"];
    formic(&args).run().says(3, &["the deadline passed", &address]);
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(4)).contains(&took), "{took:?}");
}
