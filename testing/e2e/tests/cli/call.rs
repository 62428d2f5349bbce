//! Calls from the command line that do not come to their end by themselves.

use std::time::Duration;

use formic_e2e::{App, Customer, Gateway, Manifest, Order, Tool, wait_for};
use serde_json::json;

#[test]
fn ctrl_c_cancels_a_call() {
    let manifest = Manifest::shop().set("service.payment.config", "slow_card_delay_ms", "60000");
    let mut app = App::start(&manifest);
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 1);
    // Not confirmed as long as this test lasts.
    let slow = Order { card: "4000000000000077", ..Order::good("endless") };
    let placing = std::thread::spawn({
        let customer = customer.clone();
        move || customer.place(&slow)
    });
    let order = wait_for("the order", Duration::from_secs(10), || customer.orders().pop());

    let binary = formic_e2e::build_folder().join("formic");
    let (folder, bearer) = (app.folder(), format!("Authorization: Bearer {}", customer.token));
    let request = json!({ "orderId": order["orderId"], "fromStart": true }).to_string();
    // `timeout` stands for a person who has seen enough.
    let watching = Tool::new("timeout")
        .args(["--preserve-status", "--signal=INT", "--kill-after=20", "3", binary.to_str().unwrap()])
        .args(["call", "--app", folder.to_str().unwrap(), "--timeout", "50s", "--json", "-H", &bearer])
        .args(["shop.order.v1.OrderService/Watch", &request])
        .run();
    assert_eq!(watching.code, Some(130), "{}", watching.stderr);
    assert_eq!(watching.stderr, "", "nothing went wrong");
    assert!(
        watching.stdout.contains("ORDER_STATE_PLACED"),
        "what came before was shown: {}",
        watching.stdout
    );

    let metrics = Gateway { authority: app.address_of("order") };
    let of = |name: &str, rest: &str| {
        format!("{name}{{service=\"shop.order.v1.OrderService\",method=\"Watch\"{rest}}}")
    };
    let gone = [
        format!("{} 0", of("formic_server_in_flight", "")),
        format!("{} 1", of("formic_server_requests_total", ",code=\"canceled\"")),
    ];
    wait_for("the handler to be gone", Duration::from_secs(10), || {
        let text = metrics.send("GET", "/metrics", &[], b"").unwrap().text();
        gone.iter().all(|line| text.contains(line)).then_some(())
    });
    let cancelled = customer.cancel(order["orderId"].as_str().unwrap()).unwrap();
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_ne!(placing.join().unwrap().unwrap().status, 200);
    app.stop();
}
