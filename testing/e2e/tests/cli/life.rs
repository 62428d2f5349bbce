//! From `formic up` to the end of it: what is said, what is kept, what is left.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use formic_e2e::{App, Manifest, Signal, Tool, of_application, program, signal, wait_until};

const SOON: Duration = Duration::from_secs(60);

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn state_is_private_ignores_itself_and_is_all_that_is_written() {
    let mut app = App::shop();
    let folder = app.folder();
    assert_eq!(names(&folder), BTreeSet::from([".formic".to_owned(), "formic.toml".to_owned()]));
    let state = folder.join(".formic");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(std::fs::read_to_string(state.join(".gitignore")).unwrap(), "*\n");
    assert!(state.join("api.sock").exists());
    let data = state.join("data");
    assert_eq!(names(&data).len(), 6, "a folder per service: {:?}", names(&data));
    for service in names(&data) {
        assert_eq!(mode(&data.join(&service)), 0o700, "{service}");
    }
    app.stop();
    assert_eq!(names(&folder), BTreeSet::from([".formic".to_owned(), "formic.toml".to_owned()]));
    assert!(names(&state.join("run")).is_empty(), "no record is left");
    assert!(!app.said().1.contains("killed"), "{}", app.said().1);
}

#[test]
fn services_start_after_what_they_depend_on_and_stop_before_it() {
    let mut app = App::shop();
    let ready_at = |name: &str| {
        let mut told = app.told().into_iter();
        let is_ready = |line: &serde_json::Value| {
            let services = line["services"].as_array();
            services.is_some_and(|all| all.iter().any(|s| s["name"] == name && s["state"] == "ready"))
        };
        told.position(|line| is_ready(&line)).unwrap()
    };
    let order = ready_at("order");
    for before in ["user", "product", "payment", "shipping"] {
        assert!(ready_at(before) <= order, "{before} before order");
    }
    assert!(order <= ready_at("gateway"));
    let started = |name: &str| app.service(name)["instances"][0]["started_unix_ms"].as_i64().unwrap();
    assert!(started("product") >= started("user"), "product depends on user");
    assert!(started("order") >= started("product"), "order depends on product");
    app.stop();
}

#[test]
fn people_are_shown_a_table_a_first_call_and_the_logs() {
    let mut app = App::for_people(&Manifest::shop());
    let said = |part: &str| app.said().1.contains(part);
    wait_until("the first words", SOON, || said("Ctrl-C stops everything"));
    let (out, err) = app.said();
    for part in ["SERVICE", "PID", "gateway", "127.0.0.1:", &app.pid_of("order").to_string()] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    assert!(err.contains("ready in "), "{err}");
    assert!(err.contains(&app.gateway().url()), "{err}");
    let logged = |line: &str| line.split_once('|').is_some_and(|(name, _)| name.trim() == "order");
    wait_until("a log with its prefix", SOON, || app.said().0.lines().any(logged));
    assert!(!out.contains('\u{1b}'), "no colours where there is no terminal");

    // The call that is proposed works as it is.
    let proposed = err.lines().find_map(|line| line.strip_prefix("try ")).unwrap().trim();
    match program("curl", "--version") {
        Ok(_) => {
            let tried = Tool::new("sh").args(["-c", &format!("{proposed} --silent --fail")]).good();
            let _: serde_json::Value = serde_json::from_str(&tried.stdout).unwrap();
        }
        Err(_) => assert!(proposed.starts_with("curl "), "{proposed}"),
    }

    // A crash changes the table.
    let before = app.pid_of("shipping");
    assert!(signal(before, Signal::KILL));
    let after = app.wait_restarted("shipping", before);
    wait_until("the new table", SOON, || app.said().0.contains("(1 restart)"));
    let row_of = |pid: u32| {
        app.said().0.lines().any(|line| line.starts_with("shipping") && line.ends_with(&pid.to_string()))
    };
    wait_until("the new process in it", SOON, || row_of(after));
    app.stop();
    assert!(app.said().1.contains("nothing is left behind"), "{}", app.said().1);
}

#[test]
fn stop_by_command_ends_it_as_ctrl_c_does() {
    let mut app = App::shop();
    let stopped = app.formic(&["stop", "--json"]);
    stopped.says(0, &[]);
    assert_eq!(stopped.json()["stopped"], true);
    assert_eq!(app.wait_end(), 0);
    assert_eq!(of_application(&app.folder()), Vec::<u32>::new());
    // What it kept is there for the next time.
    assert!(app.folder().join(".formic/data/user").is_dir());
    app.formic(&["status", "--app", &app.folder().display().to_string()]).says(3, &[]);
}

#[test]
fn accounts_outlive_a_restart_of_the_whole_application() {
    let mut app = App::shop();
    let customer = formic_e2e::Customer::new(app.gateway());
    app.stop();
    app.again();
    app.wait_ready();
    let profile = customer.call("shop.user.v1.UserService/GetProfile", &serde_json::json!({}));
    assert_eq!(profile["profile"]["name"], "Ada", "neither account nor token is lost");
    app.stop();
}

#[test]
fn a_terminal_that_goes_away_drains_too() {
    let mut app = App::start(&Manifest::sleeper());
    app.signal(Signal::HUP);
    assert_eq!(app.wait_end(), 0, "{}", app.said().1);
    app.wait_gone();
}
