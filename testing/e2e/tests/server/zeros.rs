//! Nothing that is planned and nothing that befalls the server costs a request: a rolling update, a revision that goes
//! back, the death of the brain, an upgrade, and a new gateway, under load of every kind.

use std::time::Duration;

use formic_e2e::{Managed, Manifest, free_port};

use crate::load::Load;

/// Against hanging alone: how much a machine does in a time is not what is tested.
const LIMIT: Duration = Duration::from_secs(300);
/// Fewer are no load.
const FEWEST: u64 = 10_000;

fn manifest(public: u16) -> Manifest {
    let program = env!("CARGO_BIN_EXE_prober");
    let manifest = Manifest::of(&format!(
        "[app]\nname = \"zeros\"\n[gateway]\nexpose = [\"prober\"]\n[service.prober]\ncommand = [{program:?}]\n\
         replicas = 3\nupdate = {{ min_ready = \"500ms\", keep_old = \"0s\" }}\n\
         sockets = {{ http = \"127.0.0.1:{public}\" }}\nhealth = {{ ready = \"grpc\" }}\n"
    ));
    // What a service refuses because others use the machine's processors is no cost of a change.
    manifest.set("service.prober.env", "FORMIC_LIMITS", "'{\"adaptive\": false}'")
}

fn rollout(managed: &Managed, service: &str) -> String {
    let status = managed.status();
    let services = status["services"].as_array().unwrap();
    let found = services.iter().find(|row| row["name"] == service).unwrap();
    found["rollout"].as_str().unwrap_or_default().to_owned()
}

/// The instances of a service.
fn of(managed: &Managed, service: &str) -> Vec<u32> {
    let pids = managed.pids().into_iter();
    pids.filter(|(id, _)| id.starts_with(&format!("{service}-"))).map(|(_, pid)| pid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_planned_or_unplanned_costs_a_request() {
    let public = free_port();
    let managed = Managed::running(&manifest(public), &[]);
    // Through the gateway, and at the public socket of the service itself.
    let load = Load::begin(&[managed.gateway().authority.clone(), format!("127.0.0.1:{public}")]);
    let managed = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(2));
        disturb(&managed, &manifest(public));
        managed
    });
    let disturbed = tokio::time::timeout(LIMIT, managed).await;
    let managed = disturbed.expect("all of it is done, or it says above where it hangs").unwrap();
    // Slow enough machines have not sent enough by now.
    let begun = std::time::Instant::now();
    let mut told = begun;
    while load.sent() < FEWEST && begun.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if told.elapsed() > Duration::from_secs(10) {
            told = std::time::Instant::now();
            println!("{} of {FEWEST} requests, {:?} after the last change", load.sent(), begun.elapsed());
        }
    }
    let (sent, failed) = load.end().await;
    println!("{sent} requests, {} failed", failed.len());
    assert!(
        failed.is_empty(),
        "{} of {sent} failed, such as {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(sent >= FEWEST, "{sent} requests are no load");
    drop(managed);
}

fn disturb(managed: &Managed, plain: &Manifest) {
    let rest = || std::thread::sleep(Duration::from_secs(1));

    let before = of(managed, "prober");
    managed.write(&plain.clone().set("service.prober.env", "ROUND", "\"2\""));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let rolled = of(managed, "prober");
    assert!(rolled.len() == 3 && rolled.iter().all(|pid| !before.contains(pid)), "{before:?} {rolled:?}");
    println!("rolled");
    rest();

    managed.write(&plain.clone().set("service.prober.env", "PROBER_BROKEN", "\"1\""));
    assert_ne!(managed.formic(&["apply", "--wait"]).code, Some(0), "it exits with 78");
    assert_eq!(rollout(managed, "prober"), "reverted");
    assert_eq!(of(managed, "prober"), rolled);
    println!("reverted");
    rest();

    managed.kill(managed.brain());
    assert_eq!(of(managed, "prober"), rolled);
    println!("the brain died");
    rest();

    let next = managed.folder().join("formic-next");
    std::fs::copy(formic_e2e::build_folder().join("formic"), &next).unwrap();
    let upgrade = ["server", "upgrade", "--program", next.to_str().unwrap()];
    managed.formic(&upgrade).says(0, &["brain: process", "keeper: process"]);
    assert_eq!(of(managed, "prober"), rolled);
    println!("upgraded");
    rest();

    // As the new brain holds nothing but what the keeper has kept, this shows that it was kept.
    let gateway = of(managed, "gateway");
    managed.write(&plain.clone().set("service.prober.env", "ROUND", "\"2\"").set(
        "gateway",
        "cors",
        "{ origins = [\"https://a.example\"] }",
    ));
    managed.formic(&["apply", "--wait"]).says(0, &[]);
    let next = of(managed, "gateway");
    assert!(next.len() == 1 && next != gateway, "{gateway:?} {next:?}");
    assert_eq!(of(managed, "prober"), rolled);
    println!("a new gateway");
    rest();
}
