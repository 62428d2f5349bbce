//! Manifests with faults: all of them told at once, each with its place, before anything is touched.

use formic_e2e::{Folder, formic, formic_in};

fn up(text: &str) -> (formic_e2e::Ended, bool) {
    let folder = Folder::new("manifest");
    folder.write("formic.toml", text);
    let ended = formic_in(folder.path(), &["up"]).run();
    (ended, folder.path().join(".formic").exists())
}

const FIVE: &str = r#"[app]
name = "shop"

[gateway]
listen = "127.0.0.1:99999"
expose = ["user", "oder"]

[service.user]
cargo = "shop-user"
replicas = "two"

[service.order]
cargo = "shop-order"
depend_on = ["user"]

[service.order.health]
deadline = "soon"
"#;

#[test]
fn five_faults_are_all_told_with_line_and_column() {
    let (ended, touched) = up(FIVE);
    ended.says(1, &["5 faults", "5 errors"]);
    for (line, column) in [(5, 10), (6, 19), (10, 12), (14, 1), (17, 12)] {
        let place = format!("formic.toml:{line}:{column}: ");
        assert!(ended.stderr.contains(&place), "{place} is not in\n{}", ended.stderr);
    }
    assert!(ended.stderr.contains("depends_on"), "it says what was meant:\n{}", ended.stderr);
    assert!(!touched, "nothing is made for a manifest that cannot run");

    let folder = Folder::new("manifest");
    folder.write("formic.toml", FIVE);
    let check = formic_in(folder.path(), &["check", "--json"]).run();
    assert_ne!(check.code, Some(0));
    let faults = check.json();
    assert_eq!(faults["faults"].as_array().map(Vec::len), Some(5), "{faults}");
}

#[test]
fn a_cycle_is_printed() {
    let (ended, _) = up(r#"[app]
name = "ring"
[service.a]
cargo = "a"
depends_on = ["b"]
[service.b]
cargo = "b"
depends_on = ["c"]
[service.c]
cargo = "c"
depends_on = ["a"]
"#);
    ended.says(1, &["formic.toml:"]);
    let circle = |text: &str| ["a -> b -> c -> a", "a → b → c → a"].iter().any(|ring| text.contains(ring));
    let any = ["`", "\""].iter().fold(ended.stderr.clone(), |text, quote| text.replace(quote, ""));
    assert!(circle(&any), "{}", ended.stderr);
}

#[test]
fn a_manifest_of_another_version_says_so() {
    let (ended, touched) = up("format = 7\n[app]\nname = \"a\"\n[service.s]\nshape = \"round\"\n");
    ended.says(1, &["formic.toml:1:", "7"]);
    assert!(!ended.stderr.contains("shape"), "what a later version means is not judged:\n{}", ended.stderr);
    assert!(!touched);
}

#[test]
fn what_is_no_manifest_at_all() {
    let folder = Folder::new("none");
    formic_in(folder.path(), &["up"]).run().says(1, &["no manifest", "formic new"]);
    formic(&["up", "/nowhere/at/all"]).run().says(1, &["no manifest"]);
    let (ended, _) = up("this is = = not toml");
    ended.says(1, &["formic.toml:1:"]);
    let (ended, _) = up(&format!("# {}\n", "x".repeat(2 << 20)));
    ended.says(1, &["1 MiB"]);
    let (ended, _) = up("[app]\nname = \"a\"\n[service.s]\nimage = \"nginx:latest\"\n");
    ended.says(1, &["formic.toml:4:", "image"]);
}

#[test]
fn a_good_one_is_shown_in_the_order_of_its_start() {
    let folder = Folder::new("check");
    let shop = formic_e2e::repository().join("examples/shop/formic.toml");
    folder.write("formic.toml", &std::fs::read_to_string(shop).unwrap());
    let shown = formic_in(folder.path(), &["check"]).good();
    let waves: Vec<&str> = shown.stdout.lines().skip(1).map(str::trim).collect();
    assert_eq!(waves, ["1. user, payment, shipping", "2. product", "3. order"], "{}", shown.stdout);
    assert!(!folder.path().join(".formic").exists());
}
