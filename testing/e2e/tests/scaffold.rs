//! Builds by `formic up`: the shop as it is in the repository, and what `formic new` makes. A test target of its own, so
//! that no other test runs while programs are replaced.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use formic_e2e::{
    App, Customer, Folder, Order, Over, Tool, builds, formic, formic_in, repository, wait_until,
};
use serde_json::json;

/// Against hanging alone: a build of our crates beside other work; those of others are there already.
const BUILD: Duration = Duration::from_secs(900);

/// `formic new`, with the versions of dependencies that are on this machine.
fn scaffold(folder: &Folder, name: &str) -> PathBuf {
    let ended = formic_in(folder.path(), &["new", name]).run();
    ended.says(0, &["cargo test", "formic up"]);
    let made = folder.path().join(name);
    fs::copy(repository().join("Cargo.lock"), made.join("Cargo.lock")).unwrap();
    made
}

fn cargo(folder: &Path, args: &[&str]) -> Tool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    builds(Tool::new(cargo)).args(args).within(folder).limit(BUILD)
}

#[test]
fn a_new_service_compiles_passes_its_test_and_runs() {
    let folder = Folder::new("new");
    // Not `greeter`: its program would take the place of the example's.
    let made = scaffold(&folder, "doorman");
    // As anybody's rustfmt has it, whatever the name sorts before.
    for made in [&made, &scaffold(&folder, "attic")] {
        cargo(made, &["fmt", "--check"]).run().says(0, &[]);
    }
    let tested = cargo(&made, &["test", "--offline"]).good();
    assert!(tested.stdout.contains("1 passed"), "{}", tested.stdout);
    assert!(!tested.stderr.contains("warning"), "it compiles without a warning:\n{}", tested.stderr);

    let mut app = App::within(&made, &[]);
    app.wait_ready_within(BUILD);
    let hello = app.call("doorman.v1.Doorman/Hello", &json!({ "name": "ada" }), &[]).unwrap();
    assert_eq!(hello["text"], "hello, ada");
    let hello = app.gateway().call("doorman.v1.Doorman/Hello", &json!({ "name": "bob" }), None);
    assert_eq!(hello["text"], "hello, bob");
    app.stop();

    // On its own, as by `cargo run`.
    let listen = ["run", "--offline", "--quiet", "--", "--explain"];
    let explained = cargo(&made, &listen).good();
    assert!(explained.stdout.contains("listen"), "{}", explained.stdout);
}

#[test]
fn a_saved_source_is_built_and_rolled_without_a_lost_call() {
    let folder = Folder::new("watch");
    let made = scaffold(&folder, "bell-boy");
    let mut app = App::within(&made, &["--watch"]);
    app.wait_ready_within(BUILD);
    let says = |app: &App| app.gateway().call("bell_boy.v1.BellBoy/Hello", &json!({ "name": "ada" }), None);
    let (source, stop) = (made.join("src/main.rs"), AtomicBool::new(false));
    let good = fs::read_to_string(&source).unwrap();
    let welcome = good.replacen("hello, {}", "welcome, {}", 1);
    std::thread::scope(|scope| {
        let over = Over::at_the_end(&stop);
        let calling = scope.spawn(|| {
            let mut calls = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                says(&app);
                calls += 1;
            }
            calls
        });
        fs::write(&source, &welcome).unwrap();
        wait_until("the new program", BUILD, || says(&app)["text"] == "welcome, ada");
        fs::write(&source, welcome.replacen("request.name", "request.nome", 1)).unwrap();
        wait_until("the failed build", BUILD, || app.said().1.contains("still serving revision"));
        assert_eq!(says(&app)["text"], "welcome, ada");
        fs::write(&source, &good).unwrap();
        wait_until("the old text", BUILD, || says(&app)["text"] == "hello, ada");
        drop(over);
        // Each of them was answered: it fails the test otherwise.
        assert!(calling.join().unwrap() > 50);
    });
    let said = app.said().1;
    assert!(
        said.contains("nome") && said.contains("bell-boy: build failed, still serving revision"),
        "{said}"
    );
    app.stop();
}

#[test]
fn a_build_that_fails_says_whose_and_why() {
    let folder = Folder::new("broken");
    let made = scaffold(&folder, "broken-bell");
    let proto = made.join("proto/broken_bell/v1/broken_bell.proto");
    let good = fs::read_to_string(&proto).unwrap();
    let up = || builds(formic_in(&made, &["up"])).limit(BUILD).run();

    fs::write(&proto, good.replacen("package ", "import \"shop/lost/v1/lost.proto\";\npackage ", 1)).unwrap();
    let ended = up();
    ended.says(
        1,
        &[
            "broken-bell",
            "broken_bell.proto:2:",
            "shop/lost/v1/lost.proto",
            "the build of broken-bell failed",
        ],
    );

    fs::write(&proto, good).unwrap();
    let main = made.join("src/main.rs");
    let source = fs::read_to_string(&main).unwrap();
    fs::write(&main, source.replacen("request.name", "request.nome", 1)).unwrap();
    up().says(1, &["nome", "src/main.rs", "the build of broken-bell failed"]);
    assert_eq!(formic_e2e::of_application(&made), Vec::<u32>::new());
}

#[test]
fn names_that_cannot_be_and_folders_that_are_there_are_refused() {
    let folder = Folder::new("names");
    fs::create_dir(folder.path().join("taken")).unwrap();
    for (name, word) in
        [("taken", "exists already"), ("Bad_Name", ""), ("match", "Rust"), ("../x", ""), ("", "")]
    {
        formic_in(folder.path(), &["new", name]).run().says(1, &[word]);
    }
    let entries = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 1, "nothing is made");
    assert_eq!(fs::read_dir(folder.path().join("taken")).unwrap().count(), 0);
    let args = ["new", "fine", "--path", folder.path().to_str().unwrap(), "--formic", "/nowhere"];
    formic(&args).run().says(1, &["--formic"]);
}

/// `formic up examples/shop`, but for its place: below the repository's own `target`, so that cargo finds the workspace
/// and a shop that somebody runs from the repository is left alone.
#[test]
fn the_shop_is_built_by_cargo_and_takes_an_order() {
    let target = repository().join("target");
    fs::create_dir_all(&target).unwrap();
    let folder = Folder::below(&target, "shop");
    fs::copy(repository().join("examples/shop/formic.toml"), folder.path().join("formic.toml")).unwrap();
    let mut app = App::within(folder.path(), &[]);
    app.wait_ready_within(BUILD);
    assert!(app.said().1.contains("building 5 services"), "{}", app.said().1);
    let customer = Customer::new(app.gateway());
    customer.add("bankers-lamp", 1);
    let placed = customer.place(&Order::good("built")).unwrap();
    assert_eq!(placed.status, 200, "{}", placed.text());
    app.stop();

    // What is built now needs no build.
    let mut app = App::within(folder.path(), &["--no-build"]);
    app.wait_ready();
    assert!(!app.said().1.contains("building"), "{}", app.said().1);
    app.stop();
}
