//! Starts that fail: each says why, and leaves what it found as it was.

use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use formic_e2e::{
    App, Customer, Folder, Following, Manifest, Order, Signal, Tool, formic, formic_in, of_application,
    program, wait_for,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_port_in_use_is_told_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = Folder::new("port");
    let gateway = format!("{:?}", address.to_string());
    let manifest =
        Manifest::sleeper().set("gateway", "listen", &gateway).set("gateway", "expose", "[\"sleeper\"]");
    manifest.write(folder.path());
    formic_in(folder.path(), &["up"]).run().says(1, &[&address.to_string(), "in use"]);
    assert_eq!(of_application(folder.path()), Vec::<u32>::new());
}

#[test]
fn a_service_that_never_gets_ready_shows_its_last_words() {
    let command = ["sh", "-c", "echo waiting for a database that is not there >&2; sleep 600"];
    let health = "{ ready = \"grpc\", deadline = \"3s\" }";
    let manifest = Manifest::program("mute", &command).set("service.mute", "health", health);
    let mut app = App::begin(&manifest);
    let told = app.wait_told("it to be given up, with its words", SOON, |line| {
        let words = || line["log"].to_string().contains("waiting for a database that is not there");
        line["notice"].as_str().is_some_and(|text| text.contains("ready")) && words()
    });
    assert_eq!(told["service"], "mute");
    app.stop();
}

#[test]
fn people_see_those_words_too() {
    let folder = Folder::new("mute");
    let command = ["sh", "-c", "echo some last words >&2; sleep 600"];
    let health = "{ ready = \"grpc\", deadline = \"3s\" }";
    Manifest::program("mute", &command).set("service.mute", "health", health).write(folder.path());
    let mut up = Following::start(formic_in(folder.path(), &["up", "--quiet"]));
    for words in ["did not get ready", "It never announced itself", "some last words"] {
        up.wait_told(words, SOON);
    }
    // As somebody does who has read it.
    up.signal(Signal::INT);
    let ended = up.wait_end(SOON);
    assert_eq!(ended.code(), Some(0), "{}", up.said());
    assert_eq!(of_application(folder.path()), Vec::<u32>::new());
}

#[test]
fn a_program_that_is_not_there() {
    let mut app = App::begin(&Manifest::program("ghost", &["./no-such-program"]));
    let told = app.wait_told("the failure to be told", SOON, |line| {
        line["service"] == "ghost" && line["notice"].is_string()
    });
    let text = told["notice"].as_str().unwrap();
    assert!(text.contains("no-such-program") && text.contains("cannot be started"), "{told}");
    app.stop();
}

#[test]
fn a_second_up_of_the_same_application_is_refused() {
    let mut app = App::start(&Manifest::sleeper());
    let pid = app.pid_of("sleeper");
    let second = formic(&["up", app.folder().to_str().unwrap()]).run();
    second.says(1, &["running already", &app.pid().to_string(), "formic stop"]);
    assert_eq!(app.pid_of("sleeper"), pid, "the first is not disturbed");
    app.stop();
}

#[test]
fn a_stale_lock_is_no_obstacle() {
    let mut app = App::start(&Manifest::sleeper());
    app.stop();
    let lock = app.folder().join(".formic/lock");
    for content in ["{\"pid\": 1}", "4194304", "\0\u{fffd}garbage"] {
        std::fs::write(&lock, content).unwrap();
        // The socket of an engine that was killed lies there as well.
        let socket = app.folder().join(".formic/api.sock");
        if !socket.exists() {
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        app.again();
        app.wait_ready();
        app.stop();
    }
}

#[test]
fn a_full_disk_is_told_before_anything_starts() {
    let place = Folder::new("disk");
    let Some(_mount) = Mounted::small("a_full_disk_is_told_before_anything_starts", &place) else { return };
    let manifest = place.write("formic.toml", Manifest::sleeper().text());
    fill(&place);
    formic_in(place.path(), &["up"]).run().says(1, &["free"]);
    assert_eq!(
        std::fs::read_to_string(&manifest).unwrap(),
        Manifest::sleeper().text(),
        "the manifest is as it was"
    );
    assert_eq!(of_application(place.path()), Vec::<u32>::new());
}

#[test]
fn a_disk_that_gets_full_loses_nothing() {
    let place = Folder::new("disk");
    let Some(_mount) = Mounted::small("a_disk_that_gets_full_loses_nothing", &place) else { return };
    Manifest::shop().write(place.path());
    let mut app = App::within(place.path(), &[]);
    app.wait_ready();
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 2);
    let pids = ["user", "product", "order"].map(|name| app.pid_of(name));

    let filler = fill(&place);
    let place_order = || customer.place(&Order::good("full")).unwrap();
    let refused = place_order();
    assert_ne!(refused.status, 200, "an order that cannot be written down is not accepted");
    let found = app.gateway().call("shop.product.v1.ProductService/Search", &json!({ "text": "lamp" }), None);
    assert!(found["products"].as_array().is_some_and(|found| !found.is_empty()), "reading goes on");

    std::fs::remove_file(filler).unwrap();
    let cart = customer.call("shop.product.v1.ProductService/ViewCart", &json!({}));
    assert_eq!(cart["cart"]["lines"][0]["quantity"], 2, "what was written is there: {cart}");
    let placed =
        wait_for("the order to be taken", SOON, || Some(place_order()).filter(|answer| answer.status == 200));
    let id = placed.json()["order"]["orderId"].as_str().unwrap().to_owned();
    assert_eq!(app.books().parts(&id), ["COMMITTED", "CAPTURED", "BOOKED"]);
    assert_eq!(customer.orders().len(), 1);
    assert_eq!(["user", "product", "order"].map(|name| app.pid_of(name)), pids, "no service died of it");
    app.stop();
}

/// Takes all of the space that is left; the file that has it.
fn fill(place: &Folder) -> std::path::PathBuf {
    let filler = place.path().join("filler");
    for size in [1 << 16, 1 << 12, 1] {
        let chunk = vec![0_u8; size];
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&filler).unwrap();
        while file.write_all(&chunk).is_ok() {}
    }
    filler
}

/// A small file system on a folder.
struct Mounted<'a>(&'a Folder);

impl<'a> Mounted<'a> {
    /// None, and the test counted as skipped, where that is not to be had.
    fn small(test: &str, on: &'a Folder) -> Option<Self> {
        let args = ["-t", "tmpfs", "-o", "size=40m", "tmpfs", on.path().to_str().unwrap()];
        let reason = match program("mount", "--version") {
            Err(absent) => absent.0,
            Ok(_) => {
                let mounted = Tool::new("mount").args(args).run();
                if mounted.code == Some(0) {
                    return Some(Self(on));
                }
                format!(
                    "a small file system cannot be mounted here: {}",
                    mounted.stderr.trim().replace('\n', " ")
                )
            }
        };
        formic_testing::skipped(test, &reason);
        None
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily: a test that failed may still hold files in there.
        let _ = Tool::new("umount").args(["--lazy"]).args([self.0.path()]).run();
    }
}
