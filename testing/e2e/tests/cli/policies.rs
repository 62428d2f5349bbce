//! A policy that changes under load of every kind: calls of one answer, and calls that stream, for a moment and for long.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use formic_e2e::{App, Gateway, Manifest, Over, wait_for, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

/// A call that streams one way, the other or both.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// So many answers, each after so many milliseconds.
    Count(u64, u32),
    Join,
    Chat,
}

/// Asks once, and says what went wrong. None of these calls may be repeated, so what is lost is lost.
fn stream(gateway: &Gateway, ask: Ask) -> Result<(), String> {
    let wait = |millis, number| json!({ "action": "ACTION_WAIT", "millis": millis, "number": number });
    let (method, requests, expected) = match ask {
        Ask::Count(millis, number) => ("Count", vec![wait(millis, number)], number),
        Ask::Join => ("Join", vec![json!({ "text": "a" }), json!({ "text": "b" })], 1),
        Ask::Chat => ("Chat", vec![json!({ "text": "a" }), json!({ "text": "b" })], 2),
    };
    let mut body = Vec::new();
    for request in requests {
        let message = request.to_string();
        body.push(0);
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message.as_bytes());
    }
    let headers = [("Content-Type", "application/connect+json")];
    let answer = gateway.send("POST", &format!("/probe.v1.Probe/{method}"), &headers, &body);
    let answer = answer.map_err(|error| format!("{ask:?}: {error}"))?;
    if answer.status != 200 {
        return Err(format!("{ask:?}: {} {}", answer.status, answer.text()));
    }
    let (end, messages): (Vec<_>, Vec<_>) =
        answer.envelopes().into_iter().partition(|(flags, _)| flags & 2 != 0);
    let is_whole = end.len() == 1 && end[0].1.get("error").is_none() && messages.len() == expected as usize;
    if is_whole { Ok(()) } else { Err(format!("{ask:?}: {} messages, {end:?}", messages.len())) }
}

fn say(gateway: &Gateway) -> Result<(), String> {
    let answer = gateway.try_call("probe.v1.Probe/Say", &json!({ "text": "x" }), None);
    let answer = answer.map_err(|error| format!("Say: {error}"))?;
    if answer.status == 200 { Ok(()) } else { Err(format!("Say: {} {}", answer.status, answer.text())) }
}

/// What the gateway sees of the service.
fn seen(app: &App) -> Option<Value> {
    let picture = app.formic(&["traffic", "prober", "--json"]);
    picture.says(0, &[]);
    let callers = picture.json()["callers"].as_array().unwrap().clone();
    callers.into_iter().find(|caller| caller["caller"]["service"] == "gateway")
}

/// Calls on their way to each instance, the fewest first.
fn in_flight(app: &App) -> Option<Vec<u64>> {
    let picture = seen(app)?;
    let endpoints = picture["endpoints"].as_array().unwrap();
    let mut counts: Vec<_> = endpoints.iter().map(|one| one["in_flight"].as_u64().unwrap()).collect();
    counts.sort_unstable();
    Some(counts)
}

/// How six streams are spread that are open at the same time.
fn spread(app: &App) -> Vec<u64> {
    wait_until("calls to be over", SOON, || {
        in_flight(app).is_some_and(|counts| counts.iter().sum::<u64>() == 0)
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over::at_the_end(&stop);
        // Each is opened again if it ended before anybody looked.
        let open = || {
            while !stop.load(Ordering::Relaxed) {
                stream(app.gateway(), Ask::Count(50, 200)).unwrap();
            }
        };
        let streams: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
        let counts = wait_for("six streams to be open", SOON, || {
            in_flight(app).filter(|counts| counts.iter().sum::<u64>() == 6)
        });
        drop(over);
        for stream in streams {
            stream.join().unwrap();
        }
        counts
    })
}

/// Applies a policy, and waits until the gateway follows it.
fn follow(app: &App, key: &str, value: &str, expected: &Value) {
    let text = std::fs::read_to_string(app.folder().join("formic.toml")).unwrap();
    Manifest::of(&text).set("service.prober.traffic", key, value).write(&app.folder());
    app.formic(&["apply", "--wait", "--timeout", "30s"]).says(0, &["runs and answers"]);
    wait_until(&format!("{key} to be in force"), SOON, || {
        seen(app).is_some_and(|seen| seen["policy"][key] == *expected)
    });
}

fn under_load(transport: &str, taken: &str) {
    let program = env!("CARGO_BIN_EXE_prober");
    let manifest = Manifest::of(&format!(
        "[app]\nname = \"policies\"\n[gateway]\nexpose = [\"prober\"]\n\
         [service.prober]\ncommand = [{program:?}]\nreplicas = 3\nhealth = {{ ready = \"grpc\" }}\n\
         [service.prober.traffic]\npolicy = \"round_robin\"\nslow_start = \"0s\"\n"
    ));
    // What a service refuses because others use the machine's processors is no cost of a change.
    let manifest = manifest.set("service.prober.env", "FORMIC_LIMITS", "'{\"adaptive\": false}'").set(
        "service.prober",
        "transport",
        &format!("{transport:?}"),
    );
    let mut app = App::start(&manifest);
    let gateway = app.gateway().clone();
    // Of who was slow over the first greeting another is tried later.
    wait_until(&format!("all three to be called over {taken}"), SOON, || {
        let endpoints = say(&gateway).ok().and_then(|()| seen(&app)?["endpoints"].as_array().cloned());
        endpoints.is_some_and(|all| all.len() == 3 && all.iter().all(|one| one["transport"] == taken))
    });
    let before = spread(&app);
    assert!(before.iter().all(|&count| count > 0), "round robin leaves nobody out: {before:?}");

    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    // How often the policy has changed, and how many streams were open while it did.
    let (changes, across) = (AtomicU32::new(0), AtomicU32::new(0));
    let failed: Vec<String> = std::thread::scope(|scope| {
        let over = Over::at_the_end(&stop);
        let mut callers = Vec::new();
        let on = || !stop.load(Ordering::Relaxed);
        for ask in [None, None, Some(Ask::Count(5, 5)), Some(Ask::Join), Some(Ask::Chat)] {
            let (gateway, asked) = (&gateway, &asked);
            callers.push(scope.spawn(move || {
                let mut failed = Vec::new();
                while on() {
                    asked.fetch_add(1, Ordering::Relaxed);
                    failed.extend(ask.map_or_else(|| say(gateway), |ask| stream(gateway, ask)).err());
                }
                failed
            }));
        }
        // These are open when the policy changes, and go on.
        for _ in 0..4 {
            let (gateway, changes, across) = (&gateway, &changes, &across);
            callers.push(scope.spawn(move || {
                let mut failed = Vec::new();
                while on() {
                    let before = changes.load(Ordering::SeqCst);
                    failed.extend(stream(gateway, Ask::Count(50, 200)).err());
                    across.fetch_add(changes.load(Ordering::SeqCst) - before, Ordering::SeqCst);
                }
                failed
            }));
        }
        let enough = || {
            let from = asked.load(Ordering::Relaxed);
            wait_until("calls to be made", SOON, || asked.load(Ordering::Relaxed) >= from + 60);
        };
        let long = || {
            let sum = |counts: Vec<u64>| counts.iter().sum::<u64>();
            wait_until("the long ones to be open", SOON, || in_flight(&app).map(sum) >= Some(4));
        };
        enough();
        long();
        follow(&app, "policy", "\"least_request\"", &json!("least_request"));
        changes.fetch_add(1, Ordering::SeqCst);
        enough();
        long();
        follow(&app, "subset", "1", &json!(1));
        changes.fetch_add(1, Ordering::SeqCst);
        enough();
        drop(over);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    // Each of the four has one open at each change, or opens one at that very moment.
    let across = across.into_inner();
    assert!((4..=8).contains(&across), "{transport}: {across} streams were open while the policy changed");
    let asked = asked.load(Ordering::Relaxed);
    assert!(failed.is_empty(), "{transport}: {} of {asked} failed, such as {:?}", failed.len(), failed[0]);
    assert_eq!(spread(&app), [0, 0, 6], "{transport}: a stream follows the policy of now, as any call does");
    app.stop();
}

#[test]
fn a_change_under_load_drops_no_stream_and_holds_for_new_ones() {
    // Once more over HTTP all of it is.
    if std::env::var("FORMIC_TRANSPORT").is_ok_and(|transport| transport == "http") {
        return under_load("auto", "http");
    }
    for (transport, taken) in [("auto", "multiplexed"), ("http", "http")] {
        under_load(transport, taken);
    }
}
