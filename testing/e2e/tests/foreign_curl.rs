//! The shop, driven by `curl`, which is what people try first.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use formic_e2e::{App, Customer, Folder, Order, Shared, Tool, program};
use serde_json::{Value, json};

static SHOP: Shared = Shared::new();

const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];
const SEARCH: &str = "/shop.product.v1.ProductService/Search";

/// The shop and what this curl can do; none, and counted as skipped, if there is no curl or it cannot do that.
fn shop(test: &str, needs: &str) -> Option<Arc<App>> {
    let absent = match program("curl", "--version") {
        Ok(version) if version.stdout.contains(needs) => return Some(SHOP.get(App::shop)),
        Ok(_) => format!("this curl does not speak {needs}"),
        Err(absent) => absent.0,
    };
    formic_testing::skipped(test, &absent);
    None
}

/// Status, version of HTTP, headers in lower case, and body.
struct Got {
    status: u16,
    version: String,
    headers: String,
    body: Vec<u8>,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

fn curl(args: &[&str], url: &str) -> Got {
    let folder = Folder::new("curl");
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let ran = Tool::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
        .args(["--write-out", "%{http_code} %{http_version}", "--dump-header"])
        .args([&head])
        .args(["--output"])
        .args([&body])
        .args(args)
        .args([url])
        .good();
    let (status, version) = ran.stdout.split_once(' ').unwrap();
    Got {
        status: status.parse().unwrap(),
        version: version.to_owned(),
        headers: std::fs::read_to_string(&head).unwrap().to_lowercase(),
        body: std::fs::read(&body).unwrap_or_default(),
    }
}

#[test]
fn json_over_http1() {
    let Some(app) = shop("json_over_http1", "curl") else { return };
    let args = [&JSON[..], &["-d", r#"{"text":"lamp"}"#]].concat();
    let got = curl(&args, &format!("{}{SEARCH}", app.gateway().url()));
    assert_eq!((got.status, got.version.as_str()), (200, "1.1"));
    assert!(got.headers.contains("content-type: application/json"), "{}", got.headers);
    assert!(got.json()["products"].as_array().is_some_and(|found| !found.is_empty()));
}

#[test]
fn json_over_http2_with_prior_knowledge() {
    let Some(app) = shop("json_over_http2_with_prior_knowledge", "HTTP2") else { return };
    let args = [&JSON[..], &["--http2-prior-knowledge", "-d", r#"{"text":"lamp"}"#]].concat();
    let got = curl(&args, &format!("{}{SEARCH}", app.gateway().url()));
    assert_eq!((got.status, got.version.as_str()), (200, "2"));
    assert!(got.json()["products"].as_array().is_some_and(|found| !found.is_empty()));
    // A service by itself does as well as the gateway in front of it.
    let got = curl(&args, &format!("http://{}{SEARCH}", app.address_of("product")));
    assert_eq!((got.status, got.version.as_str()), (200, "2"));
}

#[test]
fn get_of_a_method_without_side_effects() {
    let Some(app) = shop("get_of_a_method_without_side_effects", "curl") else { return };
    // `{"text":"lamp","limit":1}`, as a browser would write it into an address.
    let message = "%7B%22text%22%3A%22lamp%22%2C%22limit%22%3A1%7D";
    let url = format!("{}{SEARCH}?connect=v1&encoding=json&message={message}", app.gateway().url());
    let got = curl(&[], &url);
    assert_eq!(got.status, 200, "{}", String::from_utf8_lossy(&got.body));
    assert_eq!(got.json()["products"].as_array().map(Vec::len), Some(1));
    let message = URL_SAFE_NO_PAD.encode(r#"{"text":"lamp","limit":2}"#);
    let url = format!("{}{SEARCH}?connect=v1&encoding=json&base64=1&message={message}", app.gateway().url());
    assert_eq!(curl(&[], &url).json()["products"].as_array().map(Vec::len), Some(2));
    let url =
        format!("{}/shop.user.v1.UserService/Register?encoding=json&message=%7B%7D", app.gateway().url());
    assert_eq!(curl(&[], &url).status, 405, "a method with effects");
}

#[test]
fn metadata_goes_there_and_back() {
    let Some(app) = shop("metadata_goes_there_and_back", "curl") else { return };
    let customer = Customer::new(app.gateway());
    let bearer = format!("Authorization: Bearer {}", customer.token);
    let url = format!("{}/shop.user.v1.UserService/GetProfile", app.gateway().url());
    let args = [&JSON[..], &["-H", &bearer, "-H", "X-Request-Id: from-curl", "-d", "{}"]].concat();
    let got = curl(&args, &url);
    assert_eq!(got.status, 200, "{}", String::from_utf8_lossy(&got.body));
    assert_eq!(got.json()["profile"]["name"], "Ada");
    assert!(got.headers.contains("x-request-id: from-curl"), "{}", got.headers);
}

#[test]
fn an_error_has_a_code_a_message_and_details() {
    let Some(app) = shop("an_error_has_a_code_a_message_and_details", "curl") else { return };
    let args = [&JSON[..], &["-d", r#"{"email":"none","password":"x"}"#]].concat();
    let got = curl(&args, &format!("{}/shop.user.v1.UserService/Register", app.gateway().url()));
    let error = got.json();
    assert_eq!((got.status, &error["code"]), (400, &json!("invalid_argument")));
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    let detail = &error["details"][0];
    assert_eq!(detail["type"], "google.rpc.BadRequest");
    assert!(
        detail["value"].as_str().is_some_and(|value| !value.is_empty() && !value.contains('=')),
        "{error}"
    );
    let args = [&JSON[..], &["-d", r#"{"id":"none"}"#]].concat();
    let got = curl(&args, &format!("{}/shop.product.v1.ProductService/Get", app.gateway().url()));
    assert_eq!((got.status, &got.json()["code"]), (404, &json!("not_found")));
}

/// An envelope of the Connect and gRPC protocols.
fn envelope(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

#[test]
fn a_server_stream_comes_in_envelopes() {
    let Some(app) = shop("a_server_stream_comes_in_envelopes", "curl") else { return };
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 1);
    let placed = customer.place(&Order::good("curl")).unwrap().json();
    let request = json!({ "orderId": placed["order"]["orderId"], "fromStart": true }).to_string();
    let folder = Folder::new("envelope");
    let file = folder.path().join("request");
    std::fs::write(&file, envelope(request.as_bytes())).unwrap();
    let data = format!("@{}", file.display());
    let bearer = format!("Authorization: Bearer {}", customer.token);
    let args = ["-H", "Content-Type: application/connect+json", "-H", &bearer, "--data-binary", &data];
    let got = curl(&args, &format!("{}/shop.order.v1.OrderService/Watch", app.gateway().url()));
    assert_eq!(got.status, 200);
    let answer = formic_e2e::Answer { status: 200, headers: Default::default(), body: got.body };
    let envelopes = answer.envelopes();
    let (end, messages) = envelopes.split_last().unwrap();
    assert_eq!(end.0, 2, "the last one says how it ended");
    assert!(end.1.get("error").is_none(), "{end:?}");
    assert!(messages.iter().all(|(flags, _)| *flags == 0));
    assert_eq!(messages.first().unwrap().1["state"], "ORDER_STATE_PLACED");
    assert_eq!(messages.last().unwrap().1["state"], "ORDER_STATE_CONFIRMED");
}

#[test]
fn grpc_itself_by_hand() {
    let Some(app) = shop("grpc_itself_by_hand", "HTTP2") else { return };
    let folder = Folder::new("grpc");
    let file = folder.path().join("request");
    std::fs::write(&file, envelope(b"")).unwrap();
    let data = format!("@{}", file.display());
    let args = ["--http2-prior-knowledge", "-H", "Content-Type: application/grpc", "-H", "TE: trailers"];
    let args = [&args[..], &["--data-binary", &data]].concat();
    let got = curl(&args, &format!("http://{}/grpc.health.v1.Health/Check", app.address_of("user")));
    assert_eq!((got.status, got.version.as_str()), (200, "2"));
    assert!(got.headers.contains("grpc-status: 0"), "{}", got.headers);
    assert_eq!(got.body, envelope(&[0x08, 0x01]), "SERVING");
}

#[test]
fn what_a_person_would_get_wrong() {
    let Some(app) = shop("what_a_person_would_get_wrong", "curl") else { return };
    let url = format!("{}{SEARCH}", app.gateway().url());
    let got = curl(&[&JSON[..], &["-d", "text=lamp"]].concat(), &url);
    assert_eq!((got.status, &got.json()["code"]), (400, &json!("invalid_argument")));
    // Without -H, curl says that it sends a form.
    let got = curl(&["-d", r#"{"text":"lamp"}"#], &url);
    assert_eq!(got.status, 415);
    let got = curl(&[&JSON[..], &["-d", "{}"]].concat(), &format!("{url}es"));
    assert_eq!(got.status, 404);
    let got = curl(
        &[&JSON[..], &["-d", "{}"]].concat(),
        &format!("{}/shop.payment.v1.PaymentService/Get", app.gateway().url()),
    );
    assert_eq!(got.status, 404);
}
