//! The example of three languages, from outside: programs found by name, and routes to them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use formic_e2e::{Answer, App, Folder, program, repository, service_program, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

const TEST: &str = "a_rust_service_calls_python_and_node_by_name_and_routes_lead_to_both";

/// The example in a folder of its own, with what is built already in place of the Cargo package.
fn example() -> Folder {
    let folder = Folder::new("polyglot");
    let from = repository().join("examples/polyglot");
    let read = |name: &str| std::fs::read_to_string(from.join(name)).unwrap();
    for name in ["reports/app.py", "prices/app.mjs"] {
        folder.write(name, &read(name));
    }
    let desk = format!("command = [{:?}]", service_program("polyglot-desk").display().to_string());
    folder.write("formic.toml", &read("formic.toml").replace("cargo = \"polyglot-desk\"", &desk));
    folder
}

fn body(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{} {}", answer.status, answer.text()))
}

#[test]
fn a_rust_service_calls_python_and_node_by_name_and_routes_lead_to_both() {
    for (name, version) in [("python3", "--version"), ("node", "--version")] {
        if let Err(absent) = program(name, version) {
            formic_testing::skipped(TEST, &absent.0);
            return;
        }
    }
    let folder = example();
    let mut app = App::within(folder.path(), &[]);
    app.wait_ready();
    let get = |path: &str, headers: &[(&str, &str)]| app.gateway().send("GET", path, headers, b"").unwrap();
    wait_until("the routes", SOON, || get("/reports/today", &[]).status == 200);

    // Rust to Node and Python, by name.
    let quote = |item: &str| {
        let request = json!({ "item": item, "count": 2 });
        app.call("polyglot.desk.v1.DeskService/Quote", &request, &[])
    };
    let quoted = quote("lamp").unwrap();
    assert_eq!(
        (&quoted["line"], &quoted["cents"]),
        (&json!("2 x lamp: 98.00 EUR"), &json!("9800")),
        "{quoted}"
    );
    assert!(quoted["pricedBy"].as_str().unwrap().starts_with("node "), "{quoted}");
    assert!(quoted["writtenBy"].as_str().unwrap().starts_with("python "), "{quoted}");
    assert_eq!(quote("unicorn").unwrap_err().error["code"], "not_found");

    // Both instances of Python are asked.
    let instances: BTreeSet<String> =
        (0..40).map(|_| body(&get("/reports/today", &[]))["instance"].to_string()).collect();
    assert_eq!(instances.len(), 2, "{instances:?}");

    // The longest match: prefix, then a path with a header, then a host with a method.
    let prices = get("/reports/prices/lamp", &[]);
    assert_eq!((prices.status, &body(&prices)["cents"]), (200, &json!(4900)));
    let beta = get("/reports/today", &[("x-beta", "yes")]);
    assert_eq!(beta.status, 404, "{}", beta.text());
    assert!(body(&beta)["by"].as_str().unwrap().starts_with("node "));
    assert!(body(&get("/reports/today", &[("x-beta", "no")]))["by"].as_str().unwrap().starts_with("python "));
    let by_host = get("/pen", &[("Host", "prices.localhost")]);
    assert_eq!((by_host.status, &body(&by_host)["item"]), (200, &json!("pen")), "{}", by_host.text());
    let posted = app.gateway().send("POST", "/pen", &[("Host", "prices.localhost")], b"").unwrap();
    assert_eq!(posted.status, 404, "of another method there is no route");
    assert_eq!(get("/pen", &[]).status, 404);
    app.stop();
}
