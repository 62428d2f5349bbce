//! What the commands beside `up` show of a running shop, to people and to programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use formic_e2e::{App, Customer, Following, Manifest, Order, Shared, Signal, formic, formic_in, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

static SHOP: Shared = Shared::new();

fn shop() -> Arc<App> {
    let manifest = Manifest::shop().set("app", "name", "\"listings\"");
    SHOP.get(|| App::start(&manifest.set("service.payment.config", "slow_card_delay_ms", "60000")))
}

const SERVICES: [&str; 6] = ["user", "product", "payment", "shipping", "order", "gateway"];

#[test]
fn status_shows_every_service_with_version_address_and_pid() {
    let app = shop();
    let status = app.status();
    assert_eq!(status["app"], "listings");
    assert_eq!(status["gateway"], app.gateway().url());
    assert_eq!(status["pid"], app.pid());
    let mut names = Vec::new();
    for service in status["services"].as_array().unwrap() {
        names.push(service["name"].as_str().unwrap().to_owned());
        assert_eq!(service["state"], "ready", "{service}");
        assert_eq!((&service["ready"], &service["wanted"]), (&json!(1), &json!(1)), "{service}");
        assert_ne!(service["version"], "", "{service}");
        let instance = &service["instances"][0];
        assert!(instance["pid"].as_u64().is_some_and(|pid| pid > 1), "{service}");
        assert!(
            instance["address"].as_str().is_some_and(|address| address.contains("127.0.0.1:")),
            "{service}"
        );
        assert_eq!(instance["restarts"], 0, "{service}");
    }
    names.sort();
    let mut expected = SERVICES.map(str::to_owned);
    expected.sort();
    assert_eq!(names, expected);

    let table = app.formic(&["status"]);
    table.says(0, &[]);
    let header = table.stdout.lines().next().unwrap();
    for column in ["SERVICE", "VERSION", "INSTANCES", "STATE", "ADDRESS", "PID"] {
        assert!(header.contains(column), "{header}");
    }
    for name in SERVICES {
        let pid = app.pid_of(name).to_string();
        let row = table.stdout.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(row.contains("ready") && row.contains("1/1") && row.ends_with(&pid), "{row}");
    }
}

#[test]
fn services_lists_what_can_be_called() {
    let app = shop();
    let table = app.formic(&["services"]);
    table.says(0, &[]);
    for rpc in ["shop.user.v1.UserService", "shop.order.v1.OrderService", "shop.payment.v1.PaymentService"] {
        assert!(table.stdout.contains(rpc), "{}", table.stdout);
    }
    let rows = app.formic(&["services", "--json"]).json();
    let order = rows.as_array().unwrap().iter().find(|row| row["service"] == "order").unwrap();
    let text = order.to_string();
    assert!(text.contains("shop.order.v1.OrderService") && text.contains("Watch"), "{text}");
}

#[test]
fn describe_shows_methods_fields_and_instances() {
    let app = shop();
    let shown = app.formic(&["describe", "order"]);
    shown.says(0, &[]);
    for part in [
        "service shop.order.v1.OrderService",
        "Place(PlaceRequest) returns (PlaceResponse)",
        "Watch(WatchRequest) returns (stream WatchResponse)",
        "idempotency_key",
        "ORDER_STATE_CONFIRMED",
        "127.0.0.1:",
        "  is ready, ",
    ] {
        assert!(shown.stdout.contains(part), "{part:?} is not in\n{}", shown.stdout);
    }
    let json = app.formic(&["describe", "shop.order.v1.OrderService", "--json"]).json();
    assert_eq!(json["state"], "ready", "{json}");
    let watch = json["rpc"][0]["methods"].as_array().unwrap().iter().find(|m| m["name"] == "Watch").unwrap();
    assert_eq!(watch["output"], "shop.order.v1.WatchResponse");
    let fields = &json["messages"]["shop.order.v1.PlaceRequest"];
    assert!(
        fields.as_array().is_some_and(|fields| fields.iter().any(|f| f["name"] == "idempotency_key")),
        "{json}"
    );

    app.formic(&["describe", "oder"]).says(1, &["oder", "did you mean", "order"]);
}

#[test]
fn call_finds_the_method_and_its_types_by_itself() {
    let app = shop();
    // As in the first steps of the documentation.
    let found = app.call("shop.product.v1.ProductService/Search", &json!({ "text": "lamp" }), &[]).unwrap();
    let products = found["products"].as_array().unwrap();
    assert!(!products.is_empty());
    for product in products {
        let text = product.to_string().to_lowercase();
        assert!(text.contains("lamp"), "{text}");
    }
    let pretty =
        app.formic(&["call", "shop.product.v1.ProductService/Search", r#"{"text":"lamp","limit":1}"#]);
    pretty.says(0, &[]);
    assert!(pretty.stdout.lines().count() > 5, "people are shown a line per field: {}", pretty.stdout);
    let piped = formic_e2e::formic_in(
        &app.folder(),
        &["call", "shop.product.v1.ProductService/Search", "-", "--json"],
    )
    .input(r#"{"text":"lamp"}"#)
    .good();
    assert_eq!(piped.json()["products"], found["products"], "from standard input");
    let direct = app.address_of("product");
    let args = [
        "call",
        "shop.product.v1.ProductService/Search",
        r#"{"text":"lamp"}"#,
        "--json",
        "--address",
        &direct,
    ];
    assert_eq!(formic(&args).good().json()["products"], found["products"], "by address");
}

#[test]
fn call_sends_metadata_and_shows_streams() {
    let app = shop();
    let customer = Customer::new(app.gateway());
    let header = format!("authorization: Bearer {}", customer.token);
    let profile = app.call("shop.user.v1.UserService/GetProfile", &json!({}), &["-H", &header]).unwrap();
    assert_eq!(profile["profile"]["name"], "Ada");
    let refused = app.call("shop.user.v1.UserService/GetProfile", &json!({}), &[]).unwrap_err();
    assert_eq!((refused.exit, &refused.error["code"]), (4, &json!("unauthenticated")));

    customer.add("bankers-lamp", 1);
    let placed = customer.place(&Order::good("listings")).unwrap();
    assert_eq!(placed.status, 200, "{}", placed.text());
    let id = placed.json()["order"]["orderId"].as_str().unwrap().to_owned();
    let request = json!({ "orderId": id, "fromStart": true }).to_string();
    let watched =
        app.formic(&["call", "shop.order.v1.OrderService/Watch", &request, "-H", &header, "--json"]);
    watched.says(0, &[]);
    let states: Vec<Value> = watched.json_lines().into_iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states.first(), Some(&json!("ORDER_STATE_PLACED")));
    assert_eq!(states.last(), Some(&json!("ORDER_STATE_CONFIRMED")));
}

#[test]
fn errors_are_told_with_their_details_and_an_exit_code() {
    let app = shop();
    let request = json!({ "email": "none", "password": "x", "name": "" });
    let refused = app.call("shop.user.v1.UserService/Register", &request, &[]).unwrap_err();
    assert_eq!((refused.exit, &refused.error["code"]), (4, &json!("invalid_argument")));
    let fields: Vec<_> =
        refused.error["fields"].as_array().unwrap().iter().map(|f| f["field"].clone()).collect();
    assert!(fields.contains(&json!("email")) && fields.contains(&json!("password")), "{fields:?}");
    let people = app.formic(&["call", "shop.user.v1.UserService/Register", &request.to_string()]);
    people.says(4, &["field email", "field password"]);
    assert_eq!(people.stdout, "", "talk is no data");

    app.formic(&["call", "shop.product.v1.ProductService/Serch", "{}"]).says(1, &["did you mean", "/Search"]);
    app.formic(&["call", "shop.product.v1.ProductServis/Search", "{}"]).says(1, &["did you mean"]);
    app.formic(&["call", "nonsense", "{}"]).says(1, &["package.Service/Method"]);
    app.formic(&["call", "shop.product.v1.ProductService/Search", "{text:1}"]).says(1, &["not JSON"]);
    let two = ["call", "shop.product.v1.ProductService/Search", "{}", "{}"];
    app.formic(&two).says(1, &["takes one request"]);
    app.formic(&["call", "shop.product.v1.ProductService/Search", "{}", "-H", "nocolon"]).says(1, &["colon"]);
    app.formic(&["call"]).says(2, &["Usage"]);
    formic(&["call", "a.B/C", "{}", "--address", "127.0.0.1:9"]).run().says(3, &["127.0.0.1:9"]);
}

#[test]
fn a_call_keeps_its_time_limit() {
    let app = shop();
    // The slow card keeps the processor busy for a minute, and a call that says nothing has ten seconds. Each service on the way ends
    // its part a little before its caller.
    for (limit, at_least) in [("700ms", Duration::from_millis(400)), ("12s", Duration::from_secs(11))] {
        let customer = Customer::new(app.gateway());
        let header = format!("authorization: Bearer {}", customer.token);
        customer.add("bankers-lamp", 1);
        let slow = Order { card: "4000000000000077", ..Order::good("slow") };
        let start = Instant::now();
        let more = ["-H", header.as_str(), "--timeout", limit];
        let refused = app.call("shop.order.v1.OrderService/Place", &slow.request(), &more).unwrap_err();
        assert_eq!(refused.error["code"], "deadline_exceeded", "{refused:?}");
        let took = start.elapsed();
        assert!(took > at_least && took < Duration::from_secs(40), "{limit}: {took:?}");
    }
}

#[test]
fn logs_are_merged_filtered_and_followed() {
    let app = shop();
    let all = app.formic(&["logs", "--json"]);
    all.says(0, &[]);
    let lines = all.json_lines();
    let from = |service: &str| lines.iter().filter(|line| line["service"] == service).count();
    assert!(from("user") > 0 && from("order") > 0 && from("gateway") > 0, "{}", all.stdout);
    let one = app.formic(&["logs", "order"]);
    one.says(0, &[]);
    assert!(
        !one.stdout.is_empty() && one.stdout.lines().all(|line| line.starts_with("order")),
        "{}",
        one.stdout
    );
    app.formic(&["logs", "oder"]).says(1, &["oder", "did you mean", "order"]);

    // Following ends when it is interrupted, as by Ctrl-C, and with success: nothing went wrong.
    let mut logs = Following::start(formic_in(&app.folder(), &["logs", "-f", "-n", "1", "order"]));
    logs.wait_shown("order", SOON);
    assert!(logs.goes_on(), "it follows: {}", logs.said());
    logs.signal(Signal::INT);
    let ended = logs.wait_end(SOON);
    assert!(ended.success() && logs.shown().starts_with(b"order"), "{ended}: {}", logs.said());
}

#[test]
fn the_application_is_found_by_folder_and_by_name() {
    let app = shop();
    let below = app.folder().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    let found = |ended: formic_e2e::Ended| ended.json()["pid"].clone();
    assert_eq!(found(formic_e2e::formic_in(&below, &["status", "--json"]).good()), app.pid());
    let folder = app.folder().display().to_string();
    assert_eq!(found(formic(&["status", "--json", "--app", &folder]).good()), app.pid());
    assert_eq!(found(formic(&["status", "--json", "--app", "listings"]).good()), app.pid());
    formic(&["status", "--app", "nobody"]).run().says(3, &["nobody"]);
}

#[test]
fn completions_are_there_for_every_usual_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = formic(&["completions", shell]).good().stdout;
        assert!(script.contains("describe") && script.contains("services"), "{shell}");
    }
    let help = formic(&["--help"]).good().stdout;
    assert!(help.contains("Exit codes"), "{help}");
}

#[test]
fn every_service_counts_its_calls() {
    let app = shop();
    let product = formic_e2e::Gateway { authority: app.address_of("product") };
    app.call("shop.product.v1.ProductService/Categories", &json!({}), &[]).unwrap();
    // The count is raised after the answer has been sent.
    wait_for("the call to be counted", SOON, || {
        let metrics = product.send("GET", "/metrics", &[], b"").unwrap();
        assert_eq!(metrics.status, 200);
        metrics.text().contains("Categories").then_some(())
    });
    for path in ["/healthz", "/readyz"] {
        assert_eq!(product.send("GET", path, &[], b"").unwrap().status, 200, "{path}");
    }
}
