//! Over what the shop's calls travel: the same order over the multiplexed wire, and over HTTP where `FORMIC_TRANSPORT` says
//! so. `cargo xtask test` runs all of these tests both ways; this one proves that each way was the way that was meant.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use formic_e2e::{App, Customer, Folder, Gateway, Order, formic};

/// What is counted of one transport, of all services, in what a process tells at `/metrics`.
fn counted(at: &Gateway, metric: &str, transport: &str) -> u64 {
    let text = at.send("GET", "/metrics", &[], b"").unwrap().text();
    let label = format!("transport=\"{transport}\"");
    let of_it = |line: &str| {
        let (labels, value) = line.strip_prefix(metric)?.strip_prefix('{')?.split_once("} ")?;
        labels.split(',').any(|one| one == label).then(|| value.parse::<u64>().unwrap())
    };
    let counts: Vec<u64> = text.lines().filter_map(of_it).collect();
    assert!(!counts.is_empty(), "{metric} over {transport} is not in {text}");
    counts.iter().sum()
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
    a_call_is_recorded_if_it_takes_the_wire(&app, http);
    app.stop();
}

fn a_call_is_recorded_if_it_takes_the_wire(app: &App, http: bool) {
    const GET: &str = "shop.product.v1.ProductService/Get";
    let folder = Folder::new("records");
    let at = |name: &str| folder.path().join(name);
    let product = app.address_of("product");
    for (name, address) in [("found", &[][..]), ("told", &["--address", &product])] {
        let file = at(name);
        let file = file.to_str().unwrap();
        let args = ["call", GET, r#"{"id":"bankers-lamp"}"#, "--capture", file];
        let args: Vec<&str> = args.into_iter().chain(address.iter().copied()).collect();
        let called = if address.is_empty() { app.formic(&args) } else { formic(&args).run() };
        if http {
            called.says(0, &["nothing is recorded: the call went over http"]);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            continue;
        }
        called.says(0, &["recorded: the connection, in", file]);
        assert!(called.stdout.contains("bankers-lamp"), "the answer is printed as ever: {}", called.stdout);
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        // What was asked of the service on the way is on another connection.
        let decoded = formic(&["wire", "decode", file]).good().stdout;
        for said in
            ["→ greeting", "← greeting", &format!("→ call 1 request /{GET} json"), "← call 1 response"]
        {
            assert!(decoded.contains(said), "{said} is not in {decoded}");
        }
        let frames = formic(&["wire", "decode", "--json", file]).good().json_lines();
        let of = |frame: &str| frames.iter().find(|said| said["frame"] == frame).unwrap();
        let (request, response) = (of("request"), of("response"));
        assert_eq!((&request["from"], &request["call"]), (&"client".into(), &1.into()), "{request}");
        assert!(request["text"].as_str().unwrap().starts_with(&format!("/{GET} json timeout ")), "{request}");
        assert_eq!((&response["from"], &response["call"]), (&"server".into(), &1.into()), "{response}");
        assert!(response["at"].as_f64() >= request["at"].as_f64() && response["bytes"].as_u64() > Some(40));
        assert_eq!(decoded.lines().count(), frames.len());

        formic(&args).run().says(1, &["cannot make", "no record is written over another"]);
        let whole = fs::read(file).unwrap();
        let damaged = [&whole[..], b"what is no record at all"].concat();
        let faults = [
            ("cut", &whole[..whole.len() - 5], "is cut short", true),
            ("damaged", &damaged, "is damaged after", true),
            ("garbage", b"not a capture, and longer than its first bytes", "is no capture", false),
            ("empty", b"", "is no capture", false),
        ];
        for (name, bytes, fault, begins) in faults {
            let file = at(name);
            fs::write(&file, bytes).unwrap();
            let told = formic(&["wire", "decode", file.to_str().unwrap()]).run();
            told.says(1, &[name, fault, "help"]);
            assert_eq!(told.stdout.contains("→ greeting"), begins, "{name}: {}", told.stdout);
            let told = formic(&["wire", "decode", "--json", file.to_str().unwrap()]).run();
            let last = told.json_lines().pop().unwrap();
            assert!(last["error"]["message"].as_str().unwrap().contains(fault), "{name}: {last}");
        }
    }
    let file = at("nowhere/file");
    let nowhere = ["call", GET, "{}", "--address", "127.0.0.1:9", "--capture", file.to_str().unwrap()];
    formic(&nowhere).run().says(1, &["cannot make", "nowhere/file"]);
    let file = at("nobody");
    let nobody = ["call", GET, "{}", "--address", "127.0.0.1:9", "--capture", file.to_str().unwrap()];
    assert_ne!(formic(&nobody).run().code, Some(0));
    assert!(!file.exists(), "nothing was said");
}
