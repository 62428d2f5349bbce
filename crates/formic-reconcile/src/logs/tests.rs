//! What readers of logs see, of files as instances write them.

use super::*;
use std::io::Write;

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("formic-logs-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("order")).expect("temporary directory");
    dir
}

#[tokio::test]
async fn following_misses_nothing_and_joins_split_lines() {
    let dir = scratch("follow");
    let path = dir.join("order/order-1.out.log");
    let mut file = std::fs::File::create(&path).expect("create");
    file.write_all(b"one\ntwo\nthree\n").expect("write");
    let mut logs = Logs::new(dir.clone(), vec![]);
    let last: Vec<_> = logs.last(2).await.expect("read").into_iter().map(|line| line.text).collect();
    assert_eq!(last, ["two", "three"]);
    file.write_all(b"fo").expect("write");
    assert_eq!(logs.more().await.expect("read"), []);
    file.write_all(b"ur\r\nfive\n").expect("write");
    let more = logs.more().await.expect("read");
    assert_eq!(more.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["four", "five"]);
    assert_eq!(
        (more[0].service.as_str(), more[0].instance.as_str(), more[0].stream),
        ("order", "order-1", "out")
    );
    std::fs::remove_dir_all(dir).expect("remove");
}

#[tokio::test]
async fn another_reader_goes_on_behind_any_line() {
    let dir = scratch("places");
    let path = dir.join("order/order-1.out.log");
    std::fs::write(dir.join("order/order-1.err.log"), "not shown\n").expect("write");
    std::fs::write(&path, "one\ntwo\nthree\n").expect("write");
    let mut logs = Logs::new(dir.clone(), vec![]);
    let (places, last) = logs.last_and_places(2).await.expect("read");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(b"four\r\nfi").expect("write");
    let more = logs.more().await.expect("read");
    std::fs::write(dir.join("order/order-2.out.log"), "another\n").expect("write");
    let texts = |lines: &[Line]| lines.iter().map(|line| line.text.clone()).collect::<Vec<_>>();
    assert_eq!((texts(&last), texts(&more)), (vec!["two".into(), "three".into()], vec!["four".into()]));
    let all: Vec<Line> = last.into_iter().chain(more).collect();
    // The reader ended before the first line, or after any of them; what comes is the rest, and no line twice.
    for shown in 0..=all.len() {
        let mut places = places.clone();
        for line in &all[..shown] {
            let place = places.iter_mut().find(|place| place.stream == line.stream).expect("its file");
            place.offset = line.next;
        }
        let mut next = Logs::new(dir.clone(), vec![]);
        next.go_on(places);
        let mut rest = texts(&all[shown..]);
        rest.push("another".into());
        assert_eq!(texts(&next.more().await.expect("read")), rest, "after {shown}");
    }
    std::fs::remove_dir_all(dir).expect("remove");
}

#[tokio::test]
async fn the_last_lines_of_several_are_merged_by_their_times() {
    let dir = scratch("merge");
    std::fs::create_dir_all(dir.join("user")).expect("folder");
    let line = |second: u32, text: &str| {
        format!("{{\"time\":\"2026-11-21T07:00:{second:02}.5Z\",\"message\":\"{text}\"}}\n")
    };
    let order = format!("{}{}  at: trace\n{}", line(1, "a"), line(5, "b"), line(9, "c"));
    std::fs::write(dir.join("order/order-1.err.log"), order).expect("write");
    std::fs::write(dir.join("user/user-1.err.log"), line(3, "x") + &line(6, "y")).expect("write");
    let mut logs = Logs::new(dir.clone(), vec![]);
    let last = logs.last(5).await.expect("read");
    let texts: Vec<&str> = last
        .iter()
        .map(|line| line.text.rsplit("message").next().unwrap_or_default().trim_matches(['"', ':', '}', ' ']))
        .collect();
    assert_eq!(texts, ["x", "b", "at: trace", "y", "c"]);
    std::fs::remove_dir_all(dir).expect("remove");
}

#[tokio::test]
async fn a_line_says_when_it_was_written_and_what_tells_so() {
    let dir = scratch("told");
    let path = dir.join("order/order-1.out.log");
    let line = |second| format!("{{\"time\":\"1970-01-01T00:00:{second:02}.5Z\",\"message\":\"x\"}}\n");
    std::fs::write(&path, format!("first\n{}  at: trace\n", line(7))).expect("write");
    std::fs::write(dir.join("order/order-1.err.log"), "plain\n").expect("write");
    let mut logs = Logs::new(dir.clone(), vec![]);
    let told = |lines: Vec<Line>| -> Vec<(i64, &'static str)> {
        lines.into_iter().map(|line| (line.unix_ms, line.told_by.as_str())).collect()
    };
    let last = told(logs.last(0).await.expect("read"));
    assert_eq!(last[..3], [(7500, "near"), (7500, "line"), (7500, "near")]);
    assert!(last[3].0 > 1_000_000 && last[3].1 == "file", "{last:?}");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(format!("late\n{}", line(9)).as_bytes()).expect("write");
    let more = told(logs.more().await.expect("read"));
    assert!(more[0].0 > 1_000_000 && more[0].1 == "read", "{more:?}");
    assert_eq!(more[1], (9500, "line"));
    // What was written before is left out, what cannot be told counts by its file.
    let which = Which { since_unix_ms: 8_000, ..Which::default() };
    let mut since = Logs::new(dir.clone(), vec![]).with_which(which);
    assert_eq!(since.last(0).await.expect("read").len(), 2);
    std::fs::remove_dir_all(dir).expect("remove");
}

#[tokio::test]
async fn one_instance_or_the_previous_one_is_read_by_itself() {
    let dir = scratch("which");
    for (at, id) in ["order-1", "order-2", "order-3"].into_iter().enumerate() {
        let path = dir.join(format!("order/{id}.out.log"));
        std::fs::write(&path, format!("{id}\n")).expect("write");
        let file = std::fs::File::options().append(true).open(path).expect("open");
        let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + at as u64);
        file.set_modified(when).expect("touch");
    }
    let texts = async |which| {
        let mut logs = Logs::new(dir.clone(), vec![]).with_which(which);
        let lines = logs.last(0).await.expect("read");
        lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    let one = Which { instance: "order-2".into(), ..Which::default() };
    assert_eq!(texts(one).await, ["order-2"]);
    let running = ["order-3".to_owned()].into();
    let previous = Which { previous: Some(running), ..Which::default() };
    assert_eq!(texts(previous).await, ["order-2"]);
    let none = Which { instance: "order-9".into(), ..Which::default() };
    assert!(Logs::new(dir.clone(), vec![]).with_which(none).is_empty());
    std::fs::remove_dir_all(&dir).expect("remove");
}

#[tokio::test]
async fn the_value_of_a_secret_is_not_shown() {
    let dir = scratch("masked");
    let path = dir.join("order/order-1.out.log");
    std::fs::write(&path, "token=hunter2-and-more\n").expect("write");
    let state = Arc::new(State::in_memory().expect("state"));
    let set = |value: &str| {
        let mut write = state.write().expect("write");
        write.set_secret("api", &formic_state::Secret::new(value), 1).expect("set");
        write.commit().expect("commit");
    };
    set("hunter2");
    let mut logs = Logs::new(dir.clone(), vec![]).without_secrets(Arc::clone(&state));
    assert_eq!(logs.last(0).await.expect("read")[0].text, "token=[secret api]-and-more");
    set("set meanwhile");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
    file.write_all(b"now set meanwhile by db://u:pass@h\n").expect("write");
    assert_eq!(logs.more().await.expect("read")[0].text, "now [secret api] by db://u:(hidden)@h");
    std::fs::remove_dir_all(dir).expect("remove");
}

#[test]
fn times_are_read_as_the_calendar_has_them() {
    let at = |text: &str| time(&format!("{{\"time\":\"{text}\",\"level\":\"info\"}}"));
    assert_eq!(at("1970-01-01T00:00:00Z"), Some(0));
    assert_eq!(at("2000-02-29T00:00:00.000001Z"), Some(951_782_400_000_001));
    assert_eq!(at("2026-11-21T07:30:35.211Z"), Some(1_795_246_235_211_000));
    for none in ["yesterday", "2026-11-21", "2026-11-21T07:30Z", "2026-11-21T07:30:00+01:00"] {
        assert_eq!(at(none), None, "{none}");
    }
    assert_eq!(time("plain \"time\":\"1970-01-01T00:00:00Z\""), None);
}
