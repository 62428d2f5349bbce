//! Over what the shop's calls travel: the same order over the multiplexed wire, and over HTTP where `FORMIC_TRANSPORT` says
//! so. `cargo xtask test` runs all of these tests both ways; this one proves that each way was the way that was meant.

use formic_e2e::{App, Customer, Gateway, Order};

/// What is counted of one transport, in what a process tells at `/metrics`.
fn counted(at: &Gateway, metric: &str, transport: &str) -> u64 {
    let text = at.send("GET", "/metrics", &[], b"").unwrap().text();
    let name = format!("{metric}{{transport=\"{transport}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[test]
fn every_call_between_services_takes_the_transport_that_was_asked_for() {
    let http = std::env::var("FORMIC_TRANSPORT").is_ok_and(|transport| transport == "http");
    let (taken, other) = if http { ("http", "multiplexed") } else { ("multiplexed", "http") };
    let mut app = App::shop();
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 1);
    assert_eq!(customer.place(&Order::good("over what")).unwrap().status, 200);

    let order = Gateway { authority: app.address_of("order") };
    assert!(counted(&order, "formic_client_transport_total", taken) > 0, "order called nobody over {taken}");
    assert_eq!(counted(&order, "formic_client_transport_total", other), 0, "order called over {other}");
    // Whom order alone calls; the engine asks for its health over HTTP, whatever the setting.
    for service in ["payment", "shipping"] {
        let at = Gateway { authority: app.address_of(service) };
        assert!(
            counted(&at, "formic_server_transport_total", taken) > 0,
            "{service} took no call over {taken}"
        );
        let connections = counted(&at, "formic_server_connections_total", "multiplexed");
        assert_eq!(connections == 0, http, "{service} took {connections} multiplexed connections");
    }

    let request = r#"{"id":"bankers-lamp"}"#;
    let called = app.formic(&["call", "-v", "shop.product.v1.ProductService/Get", request]);
    assert_eq!(called.code, Some(0), "{}", called.stderr);
    assert!(called.stderr.contains(&format!("transport: {taken}")), "{}", called.stderr);
    app.stop();
}
