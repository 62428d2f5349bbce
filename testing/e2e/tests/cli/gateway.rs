//! The gateway's answers to what is wrong, too much, or not for the world.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use formic_e2e::{
    App, Folder, Gateway, Manifest, Shared, Signal, build_folder, formic, signal, wait_child, wait_for,
    wait_until,
};
use serde_json::{Value, json};

static SHOP: Shared = Shared::new();

const SEARCH: &str = "/shop.product.v1.ProductService/Search";
const JSON: (&str, &str) = ("Content-Type", "application/json");
const SOON: Duration = Duration::from_secs(60);

fn shop() -> Arc<App> {
    SHOP.get(|| {
        let manifest = Manifest::shop().set("gateway", "cors", "{ origins = [\"https://shop.example\"] }");
        App::start(&manifest)
    })
}

#[test]
fn what_is_not_json_is_a_bad_request() {
    let app = shop();
    for body in ["", "{", "{\"text\":", "hello", "[1]", "{\"text\":17}"] {
        let answer = app.gateway().send("POST", SEARCH, &[JSON], body.as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
        assert_eq!(answer.json()["code"], "invalid_argument", "{body:?}");
        assert_ne!(answer.json()["message"].as_str(), Some(""), "{body:?}");
    }
    let fine = app.gateway().send("POST", SEARCH, &[JSON], b"{}").unwrap();
    assert_eq!(fine.status, 200, "and goes on working");
}

#[test]
fn what_is_too_large_is_refused() {
    let app = shop();
    let body = format!("{{\"text\":\"{}\"}}", "x".repeat(5 << 20));
    let answer = app.gateway().send("POST", SEARCH, &[JSON], body.as_bytes()).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert_eq!(answer.json()["code"], "resource_exhausted");
}

#[test]
fn headers_without_end_are_refused() {
    let app = shop();
    let large = "x".repeat(1 << 20);
    match app.gateway().send("POST", SEARCH, &[JSON, ("X-Large", &large)], b"{}") {
        Ok(answer) => assert!([400, 431].contains(&answer.status), "{}", answer.status),
        // It may also just hang up.
        Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{error}"),
    }
    assert_eq!(app.gateway().send("POST", SEARCH, &[JSON], b"{}").unwrap().status, 200);
}

#[test]
fn methods_that_are_not_there_or_not_exposed_are_not_found() {
    let app = shop();
    for path in [
        "/shop.product.v1.ProductService/Serch",
        "/shop.product.v1.Nothing/Search",
        "/shop.payment.v1.PaymentService/Get",
        "/shop.shipping.v1.ShippingService/Track",
        "/formic.control.v1.ControlService/Stop",
        "/formic.registry.v1.RegistryService/List",
    ] {
        let answer = app.gateway().send("POST", path, &[JSON], b"{}").unwrap();
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    // They run, and answer those who may ask.
    let refused =
        app.call("shop.payment.v1.PaymentService/Get", &json!({ "paymentId": "none" }), &[]).unwrap_err();
    assert_eq!(refused.error["code"], "not_found");
}

#[test]
fn the_wrong_verb_and_the_wrong_type_are_refused() {
    let app = shop();
    let register = "/shop.user.v1.UserService/Register";
    assert_eq!(app.gateway().send("GET", register, &[], b"").unwrap().status, 405, "it has effects");
    assert_eq!(app.gateway().send("DELETE", register, &[], b"").unwrap().status, 405);
    let answer = app.gateway().send("POST", register, &[("Content-Type", "text/plain")], b"{}").unwrap();
    assert_eq!(answer.status, 415, "{}", answer.text());
}

#[test]
fn errors_of_services_arrive_whole() {
    let app = shop();
    let request = json!({ "email": "none", "password": "x", "name": "" });
    let answer = app.gateway().try_call("shop.user.v1.UserService/Register", &request, None).unwrap();
    assert_eq!(answer.status, 400);
    let error = answer.json();
    assert_eq!(error["code"], "invalid_argument");
    assert_eq!(error["details"][0]["type"], "google.rpc.BadRequest", "{error}");
    let answer =
        app.gateway().try_call("shop.product.v1.ProductService/Get", &json!({ "id": "none" }), None).unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("not_found")));
    let answer = app.gateway().try_call("shop.user.v1.UserService/GetProfile", &json!({}), None).unwrap();
    assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("unauthenticated")));
}

#[test]
fn requests_have_an_id_and_browsers_their_headers() {
    let app = shop();
    let answer = app.gateway().send("POST", SEARCH, &[JSON, ("X-Request-Id", "abc-1")], b"{}").unwrap();
    assert_eq!(answer.header("x-request-id"), "abc-1");
    let answer = app.gateway().send("POST", SEARCH, &[JSON], b"{}").unwrap();
    assert_eq!(answer.header("x-request-id").len(), 32);
    let preflight = |origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "content-type,connect-protocol-version"),
        ];
        app.gateway().send("OPTIONS", SEARCH, &headers, b"").unwrap()
    };
    let allowed = preflight("https://shop.example");
    assert_eq!(allowed.header("access-control-allow-origin"), "https://shop.example");
    assert_eq!(preflight("https://elsewhere.example").header("access-control-allow-origin"), "");
}

#[test]
fn a_browser_gets_a_page() {
    let app = shop();
    let page = app.gateway().send("GET", "/", &[("Accept", "text/html")], b"").unwrap();
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
    let lost = app.gateway().send("GET", "/nothing/here", &[("Accept", "text/html")], b"").unwrap();
    assert_eq!(lost.status, 404);
    assert!(lost.header("content-type").starts_with("text/html"), "{}", lost.header("content-type"));
    for secret in ["payment", "shipping"] {
        assert!(!page.text().contains(&format!("shop.{secret}")), "{secret} is not shown");
    }
}

/// Ended with its test, however that ends.
struct Early(Child);

impl Drop for Early {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a process would hear that it is asked for its end.
fn hears_the_end(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first signal has the lowest bit. A hangup is what it listens to last, so that with it nothing is still under way.
    let hears = |mask: u64, signal: Signal| mask & (1 << (signal.as_raw() - 1)) != 0;
    caught.is_some_and(|mask| hears(mask, Signal::TERM) && hears(mask, Signal::HUP))
}

#[test]
fn a_gateway_that_is_not_ready_yet_ends_when_asked() {
    let folder = Folder::new("early");
    // Nobody answers there, so there are never any routes and it never gets ready.
    let daemon = format!("unix:{}", folder.path().join("none.sock").display());
    let said = folder.path().join("said");
    let file = File::create(&said).unwrap();
    let mut command = Command::new(build_folder().join("formic"));
    command
        .arg("gateway")
        .env("FORMIC_CONFIG", r#"{"app":"none","listen":"127.0.0.1:0"}"#)
        .env("FORMIC_DAEMON", daemon)
        .env("FORMIC_INSTANCE", "gateway-1")
        .env("FORMIC_SERVICE", "gateway");
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut gateway = Early(command.spawn().unwrap());
    let pid = gateway.0.id();
    wait_until("it to listen for signals", SOON, || hears_the_end(pid));
    assert!(signal(pid, Signal::TERM));
    let ended = wait_child(&mut gateway.0, SOON);
    let said = std::fs::read_to_string(&said).unwrap();
    assert_eq!(ended.and_then(|ended| ended.code()), Some(0), "{ended:?}: {said}");
}

#[test]
fn the_gateway_is_a_process_of_its_own() {
    let app = shop();
    assert_ne!(app.pid_of("gateway"), app.pid());
    let nothing = Gateway { authority: app.gateway().authority.clone() };
    assert_eq!(nothing.send("GET", "/healthz", &[], b"").unwrap().status, 200);
    formic(&["gateway"]).run().says(1, &["formic up"]);
}

/// Has the gateway call the prober, and say over what it did.
fn called_over(app: &App) -> Value {
    let say = || app.gateway().try_call("probe.v1.Probe/Say", &json!({ "text": "x" }), None);
    wait_until("an answer", SOON, || say().is_ok_and(|answer| answer.status == 200));
    wait_for("what the gateway sees", SOON, || {
        let picture = app.formic(&["traffic", "prober", "--json"]);
        picture.says(0, &[]);
        let callers = picture.json()["callers"].as_array().unwrap().clone();
        let gateway = callers.into_iter().find(|caller| caller["caller"]["service"] == "gateway")?;
        let transport = &gateway["endpoints"][0]["transport"];
        transport.as_str().is_some_and(|transport| !transport.is_empty()).then(|| transport.clone())
    })
}

#[test]
fn the_gateway_alone_is_told_to_keep_to_http() {
    let program = env!("CARGO_BIN_EXE_prober");
    // The service says what it speaks, whatever the environment says of the whole application.
    let manifest = Manifest::of(&format!(
        "[app]\nname = \"apart\"\n[gateway]\nexpose = [\"prober\"]\ntransport = \"http\"\n\
         [service.prober]\ncommand = [{program:?}]\ntransport = \"auto\"\nhealth = {{ ready = \"grpc\" }}\n"
    ));
    let mut app = App::start(&manifest);
    assert_eq!(called_over(&app), "http");
    let text = std::fs::read_to_string(app.folder().join("formic.toml")).unwrap();
    Manifest::of(&text).set("gateway", "transport", "\"auto\"").write(&app.folder());
    let plan = app.formic(&["plan"]).stdout;
    for said in ["~ gateway changed, by new instances", "config.transport: http -> auto"] {
        assert!(plan.contains(said), "{said} is not in {plan}");
    }
    app.formic(&["apply", "--wait", "--timeout", "30s"]).says(0, &["runs and answers"]);
    wait_until("the next gateway to take the wire", SOON, || called_over(&app) == "multiplexed");
    app.stop();
}
