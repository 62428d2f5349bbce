//! How calls are spread: shown, changed while they run, and set right by hand.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use formic_e2e::{
    App, Customer, Ended, Manifest, Order, Over, Signal, build_folder, signal, wait_child, wait_for,
    wait_same, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const SEARCH: &str = "shop.product.v1.ProductService/Search";

fn traffic(app: &App, service: &str) -> Value {
    let seen = app.formic(&["traffic", service, "--json"]);
    seen.says(0, &[]);
    seen.json()
}

/// What the gateway sees of a service, once it has called it.
fn at_gateway(app: &App, service: &str) -> Option<Value> {
    let seen = traffic(app, service);
    let callers = seen["callers"].as_array().unwrap().clone();
    callers.into_iter().find(|caller| caller["caller"]["service"] == "gateway")
}

/// The same as people see it. A gateway that is slow to answer is left out of one picture, and is in the next.
fn from_gateway(app: &App) -> Ended {
    wait_for("the gateway's picture", SOON, || {
        let shown = app.formic(&["traffic", "product", "--from", "gateway"]);
        (shown.code == Some(0)).then_some(shown)
    })
}

fn search(app: &App) -> u16 {
    app.gateway().try_call(SEARCH, &json!({}), None).map_or(0, |answer| answer.status)
}

/// Every process, by instance.
fn pids(app: &App) -> Vec<(String, u64)> {
    let status = app.status();
    let services = status["services"].as_array().unwrap().clone();
    let instances = services.iter().flat_map(|service| service["instances"].as_array().unwrap().clone());
    instances.map(|i| (i["id"].to_string(), i["pid"].as_u64().unwrap())).collect()
}

fn shop() -> (App, Manifest) {
    let manifest = Manifest::shop().set("service.product", "replicas", "3");
    (App::start(&manifest), manifest)
}

/// The manifest with the port that the running gateway has.
fn rewrite(app: &App, change: impl Fn(Manifest) -> Manifest) {
    let text = std::fs::read_to_string(app.folder().join("formic.toml")).unwrap();
    change(Manifest::of(&text)).write(&app.folder());
}

#[test]
fn a_policy_reaches_callers_that_run_and_no_call_is_dropped() {
    let (mut app, _) = shop();
    assert_eq!(search(&app), 200);
    let of = |seen: &Value| {
        let endpoints = seen["endpoints"].as_array().map(Vec::len);
        (seen["policy"]["policy"].clone(), seen["wanted"].clone(), endpoints)
    };
    wait_same("the gateway to know all three", SOON, &Some((json!("p2c"), json!(true), Some(3))), || {
        at_gateway(&app, "product").as_ref().map(of)
    });
    let before = pids(&app);

    let (stop, asked, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _over = Over::at_the_end(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let status = search(&app);
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u32::from(status != 200), Ordering::Relaxed);
                }
            });
        }
        let enough = |more: u32| {
            let from = asked.load(Ordering::Relaxed);
            wait_until("calls to be made", SOON, || asked.load(Ordering::Relaxed) >= from + more);
        };
        enough(50);
        for policy in ["round_robin", "least_request"] {
            rewrite(&app, |manifest| {
                manifest.set("service.product.traffic", "policy", &format!("{policy:?}"))
            });
            let plan = app.formic(&["plan"]);
            plan.says(0, &[]);
            // Once, and with each caller where that is.
            assert_eq!(plan.stdout.matches(policy).count(), 1, "{}", plan.stdout);
            for part in [
                " service.product.traffic.policy: ",
                "config.services.product: as service.product.traffic below",
                "client.product.traffic: as service.product.traffic below",
            ] {
                assert!(plan.stdout.contains(part), "{part} in {}", plan.stdout);
            }
            assert!(!plan.stdout.contains("by new instances"), "{}", plan.stdout);
            app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
            wait_until(&format!("{policy} to be in force"), SOON, || {
                at_gateway(&app, "product").is_some_and(|seen| seen["policy"]["policy"] == policy)
            });
            enough(50);
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {asked:?}");
    assert_eq!(pids(&app), before, "nobody was restarted for it");

    // A rollback brings the earlier policy back, and taking it out of the manifest the default.
    app.formic(&["rollback"]).says(0, &[]);
    wait_until("round robin to be back", SOON, || {
        at_gateway(&app, "product").is_some_and(|seen| seen["policy"]["policy"] == "round_robin")
    });
    app.formic(&["rollback", "1"]).says(0, &[]);
    wait_until("the default to be back", SOON, || {
        at_gateway(&app, "product").is_some_and(|seen| seen["policy"]["policy"] == "p2c")
    });
    assert_eq!(pids(&app), before);

    // A new instance begins with what is in force.
    rewrite(&app, |manifest| manifest.set("service.product.traffic", "policy", "\"random\""));
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &[]);
    let gateway = app.pid_of("gateway");
    assert!(signal(gateway, Signal::KILL));
    app.wait_restarted("gateway", gateway);
    wait_until("the new gateway to call", SOON, || search(&app) == 200);
    wait_same("it to begin with that", SOON, &Some((json!("random"), json!(true), Some(3))), || {
        at_gateway(&app, "product").as_ref().map(of)
    });
    app.stop();
}

/// What a service sees of product, once it has called it.
fn at(app: &App, caller: &str) -> Option<Value> {
    let callers = traffic(app, "product")["callers"].as_array().unwrap().clone();
    callers.into_iter().find(|seen| seen["caller"]["service"] == caller)
}

#[test]
fn one_caller_has_a_policy_of_its_own_and_no_call_is_dropped() {
    const OWN: &str = "service.order.client.product.traffic";
    let manifest = Manifest::shop()
        .set("service.product", "replicas", "3")
        .set("service.product.traffic", "policy", "\"round_robin\"")
        .set(OWN, "policy", "\"least_request\"");
    let mut app = App::start(&manifest);
    // Order looks into the cart, which is product's, and refuses what is empty.
    let customer = Customer::new(app.gateway());
    let place = || {
        let answer = customer.place(&Order::good("nothing"));
        answer.map_or_else(|error| error.to_string(), |answer| answer.text())
    };
    let refusal = place();
    assert!(refusal.contains("failed_precondition") && search(&app) == 200, "{refusal}");
    let policies = |app: &App| {
        let of =
            |caller| at(app, caller).map(|seen| (seen["policy"]["policy"].clone(), seen["wanted"].clone()));
        (of("gateway"), of("order"))
    };
    let both = |one: &str, other: &str| (Some((json!(one), json!(true))), Some((json!(other), json!(true))));
    wait_same("both policies", SOON, &both("round_robin", "least_request"), || policies(&app));
    let before = pids(&app);

    let (stop, asked, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _over = Over::at_the_end(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                asked.fetch_add(1, Ordering::Relaxed);
                failed.fetch_add(u32::from(place() != refusal), Ordering::Relaxed);
            }
        });
        let enough = |more: u32| {
            let from = asked.load(Ordering::Relaxed);
            wait_until("orders to be placed", SOON, || asked.load(Ordering::Relaxed) >= from + more);
        };
        enough(10);
        rewrite(&app, |manifest| manifest.set(OWN, "policy", "\"random\""));
        let plan = app.formic(&["plan"]);
        plan.says(0, &[]);
        let change = "service.order.client.product.traffic.policy: least_request -> random";
        assert!(plan.stdout.contains(change), "{}", plan.stdout);
        assert!(!plan.stdout.contains("by new instances"), "{}", plan.stdout);
        app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
        wait_same("it to be in force", SOON, &both("round_robin", "random"), || policies(&app));
        // What everybody is told changes for all but the one.
        rewrite(&app, |manifest| manifest.set("service.product.traffic", "policy", "\"p2c\""));
        app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &["runs and answers"]);
        wait_same("it to be in force", SOON, &both("p2c", "random"), || policies(&app));
        enough(10);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {asked:?}");
    assert_eq!(pids(&app), before, "nobody was restarted for it");
    // A fault in it is told with its line, and a name that is none with a note.
    rewrite(&app, |manifest| manifest.set(OWN, "subset", "0"));
    app.formic(&["check"]).says(1, &["`subset` in [service.order.client.product.traffic]", "formic.toml:"]);
    rewrite(&app, |manifest| {
        manifest.set(OWN, "subset", "2").set("service.order.client.produkt.traffic", "subset", "2")
    });
    for verb in ["check", "plan", "apply"] {
        let said = app.formic(&[verb]);
        let text = said.stdout.clone() + &said.stderr;
        assert!(said.code == Some(0) && text.contains("did you mean `product`?"), "{verb}: {text}");
    }
    app.stop();
}

#[test]
fn faults_of_a_policy_are_all_told_and_change_nothing() {
    let (mut app, _) = shop();
    assert_eq!(search(&app), 200);
    rewrite(&app, |manifest| {
        let rules =
            "[{ name = \"none\", split = [{ weight = 0 }, { weight = 0 }] }, { name = \"x\", too = {} }]";
        let manifest = manifest.set("service.product.traffic", "policy", "\"fastest\"");
        manifest.set("service.product.traffic", "rules", rules).set("service.user.traffic", "subset", "0")
    });
    let faults = ["fastest", "too", "subset", "weight"];
    app.formic(&["check"]).says(1, &faults);
    app.formic(&["apply"]).says(1, &faults);
    let seen = wait_for("the gateway to be asked", SOON, || at_gateway(&app, "product"));
    assert_eq!((&seen["policy"]["policy"], &app.status()["index"]), (&json!("p2c"), &json!(1)));
    app.stop();
}

#[test]
fn what_does_not_apply_falls_back_as_stated_and_is_shown() {
    let (mut app, _) = shop();
    rewrite(&app, |manifest| {
        let rules = "[{ name = \"canary\", to = { version = \"no such\" } }, \
                     { name = \"far\", to = { zone = \"moon\" } }]";
        manifest.set("service.product.traffic", "rules", rules).set("service.product.traffic", "zone", "{}")
    });
    app.formic(&["check"]).says(0, &[]);
    app.formic(&["apply", "--wait", "--timeout", "60s"]).says(0, &[]);
    assert_eq!(search(&app), 200, "the rules are passed over");
    let notes = wait_for("the notes", SOON, || {
        let notes = at_gateway(&app, "product")?["notes"].to_string();
        notes.contains("canary").then_some(notes)
    });
    for note in [
        "\\\"canary\\\": no instance has version",
        "the rule is passed over",
        "moon",
        "zone: this caller knows none",
    ] {
        assert!(notes.contains(note), "{note} in {notes}");
    }
    let shown = from_gateway(&app);
    for part in ["rules canary, far", "note: rule \"canary\"", "ready", "budget: "] {
        assert!(shown.stdout.contains(part), "{part} in {}", shown.stdout);
    }
    app.stop();
}

#[test]
fn an_instance_that_hangs_is_shown_ejected_with_its_evidence_and_let_in_by_hand() {
    let manifest = Manifest::shop()
        .set("service.product", "replicas", "3")
        // Or the engine would take it out before callers do.
        .set("service.product", "health", "{ ready = \"none\" }")
        .set("service.product.traffic", "policy", "\"round_robin\"")
        .set("service.product.traffic", "ejection", "{ min_wait = \"1m\", max_wait = \"1m\" }");
    let mut app = App::start(&manifest);
    wait_until("product to answer", SOON, || search(&app) == 200);
    wait_until("all three to be known", SOON, || {
        at_gateway(&app, "product").is_some_and(|seen| seen["endpoints"].as_array().unwrap().len() == 3)
    });
    let hung = app.service("product")["instances"][0].clone();
    let (id, pid) = (hung["id"].as_str().unwrap(), u32::try_from(hung["pid"].as_u64().unwrap()).unwrap());
    let of_hung = |seen: &Value| {
        seen["endpoints"].as_array().unwrap().iter().find(|one| one["instance"] == id).cloned()
    };
    let headers = [("Content-Type", "application/json"), ("Connect-Timeout-Ms", "300")];
    let out = wait_for("it to be ejected", SOON, || {
        // What calls take is to be known of each, or these would be in too great a hurry to tell anything.
        for _ in 0..15 {
            let _ = search(&app);
        }
        assert!(signal(pid, Signal::STOP));
        // Enough of them meet it before its connection is found dead, and others go on to be well meanwhile.
        std::thread::scope(|calls| {
            for _ in 0..40 {
                calls.spawn(|| app.gateway().send("POST", &format!("/{SEARCH}"), &headers, b"{}"));
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let found = at_gateway(&app, "product").and_then(|seen| of_hung(&seen));
        let found = found.filter(|one| one["state"] == "ejected");
        if found.is_none() {
            assert!(signal(pid, Signal::CONT));
            wait_until("it to be as before", SOON, || {
                let seen = at_gateway(&app, "product").and_then(|seen| of_hung(&seen));
                seen.is_some_and(|one| one["state"] != "down" && one["in_flight"] == 0)
            });
        }
        found
    });
    assert!(out["reason"].as_str().unwrap().contains("calls failed"), "{out}");
    assert_ne!(out["probe_in"].as_str().unwrap(), "", "{out}");
    let shown = from_gateway(&app);
    assert!(shown.stdout.contains("calls failed") && shown.stdout.contains("probed in"), "{}", shown.stdout);
    // Nobody meets it any more, and none of these calls is in such a hurry.
    for _ in 0..10 {
        assert_eq!(search(&app), 200);
    }
    assert!(signal(pid, Signal::CONT));
    wait_until("it to count again with the gateway", SOON, || {
        let reset = app.formic(&["traffic", "product", "--reset", id]);
        reset.code == Some(0) && reset.stdout.contains("counts again with gateway")
    });
    wait_until("it to get calls again", SOON, || {
        assert_eq!(search(&app), 200);
        let seen = at_gateway(&app, "product").and_then(|seen| of_hung(&seen));
        seen.is_some_and(|one| one["state"] == "ready" || one["state"] == "warming")
    });
    let metrics = app.gateway().send("GET", "/metrics", &[], b"").unwrap().text();
    for name in ["ejections", "returns"] {
        let counter = format!("formic_client_{name}_total{{service=\"product\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(counter.as_str()));
        // A healthy one may have been ejected too, and have come back.
        assert!(value.and_then(|value| value.parse::<u64>().ok()) >= Some(1), "{counter}in {metrics}");
    }
    app.stop();
}

#[test]
fn a_picture_is_taken_anew_until_nobody_looks() {
    let (mut app, _) = shop();
    assert_eq!(search(&app), 200);
    let watch = || {
        let mut command = Command::new(build_folder().join("formic"));
        command.args(["traffic", "product", "--watch", "--json"]).current_dir(app.folder());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let look = |watching: &mut Child| {
        let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let seen: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(seen["service"], "product");
        }
        lines
    };
    // The reader goes, and so does the command.
    let mut watching = watch();
    drop(look(&mut watching));
    assert!(wait_child(&mut watching, SOON).is_some_and(|ended| ended.success()));
    // Ctrl-C is no failure.
    let mut watching = watch();
    let _open = look(&mut watching);
    assert!(signal(watching.id(), Signal::INT));
    assert!(wait_child(&mut watching, SOON).is_some_and(|ended| ended.success()));
    app.stop();
}

#[test]
fn who_does_not_answer_is_named_and_what_is_unknown_is_refused() {
    let (mut app, _) = shop();
    assert_eq!(search(&app), 200);
    app.formic(&["traffic", "produkt"]).says(1, &["produkt", "did you mean \"product\"?"]);
    app.formic(&["traffic", "product", "--from", "nobody"]).says(1, &["nobody"]);
    app.formic(&["traffic", "product", "--reset", "nobody-1"]).says(1, &["no caller knows", "nobody-1"]);
    let endpoint = wait_for("an instance that is known", SOON, || {
        Some(at_gateway(&app, "product")?["endpoints"][0].clone()).filter(|one| !one.is_null())
    });
    for name in ["instance", "endpoint"] {
        let name = endpoint[name].as_str().unwrap();
        wait_until("it to be known still", SOON, || {
            app.formic(&["traffic", "product", "--reset", name]).code == Some(0)
        });
    }
    // It is asked from the moment at which it has said that it can be.
    let knows_user = || app.formic(&["traffic", "product", "--from", "user"]).code == Some(0);
    wait_until("user to attend", SOON, knows_user);
    let user = app.pid_of("user");
    assert!(signal(user, Signal::STOP));
    // Who is merely slow is silent too, but not each time.
    let who = |rows: &Value, of: fn(&Value) -> &Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|row| of(row)["service"].to_string()).collect()
    };
    let expected = (vec!["\"user\"".to_owned()], true);
    wait_same("user alone to be silent", SOON, &expected, || {
        let seen = traffic(&app, "product");
        let callers = who(&seen["callers"], |row| &row["caller"]);
        (who(&seen["silent"], |row| row), callers.contains(&"\"gateway\"".to_owned()))
    });
    assert!(signal(user, Signal::CONT));
    app.stop();
}
