//! A state with something of everything in it, and a folder that goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use formic_plan::{Desired, Fleet, Instance, InstanceId, Observed, Service, Time, Timetable};
use formic_spec::{Cron, HumanDuration, Revision, Schedule, Update};
use formic_state::{Event, Generation, Held, Secret, State};
use serde_json::json;

/// A folder of its own for each test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("formic-state-{}-{number}", std::process::id()));
        // What an earlier process of the same number left behind.
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn service(name: &str, number: u32) -> Service {
    Service {
        name: name.into(),
        revision: Revision::of(&json!([name, number])),
        replicas: 2,
        process: None,
        depends_on: Vec::new(),
        conditions: BTreeMap::new(),
        dependents: formic_spec::Dependents::None,
        update: Update::default(),
        job: None,
        cron: None,
        sets: None,
        completed: false,
        ready_within: HumanDuration::from_secs(60),
        grace: HumanDuration::from_secs(30),
        start: json!({ "program": "/bin/true", "number": number }),
    }
}

pub(crate) fn fleet(number: u32) -> Fleet {
    let mut fleet = Fleet::default();
    let services = ["user", "order", "product"].map(|name| service(name, number));
    let desired = Desired { generation: u64::from(number), services: services.into() };
    fleet.apply(&desired, Time::from_millis(5)).unwrap();
    fleet.advance(&Observed::default(), Time::from_millis(6));
    fleet
}

pub(crate) fn generation(number: u32) -> Generation {
    Generation {
        index: u64::from(number),
        unix_ms: 1_000,
        cause: format!("apply {number}"),
        services: ["user", "order"].map(|name| service(name, number)).into(),
        tag: json!({ "gateway": number }),
        secrets: BTreeMap::from([("password".to_owned(), BTreeSet::from([u64::from(number)]))]),
        outcome: None,
        why: String::new(),
        restarted: Vec::new(),
    }
}

pub(crate) fn held(number: u32) -> Held {
    let id = InstanceId::from(format!("user-{number}"));
    let instance = Instance::begin(id, &service("user", number), 0, None, Time::from_millis(7));
    Held { instance, rest: json!({ "seat": number }) }
}

pub(crate) fn event(number: u32) -> Event {
    Event {
        at_unix_ms: u64::from(number),
        kind: "exit".into(),
        service: Some("order".into()),
        instance: None,
        text: format!("number {number}"),
    }
}

pub(crate) fn timetable(number: u32) -> Timetable {
    let mut cron = service("report", number);
    cron.cron = Some(Cron::new(Schedule::new("@daily", "Europe/Berlin").unwrap()));
    let mut timetable = Timetable::default();
    timetable.apply(&Desired { generation: 1, services: vec![cron] }, 5);
    timetable.run_now("report", 6);
    timetable
}

/// A commit of everything at once.
pub(crate) fn commit(state: &State, number: u32) {
    let mut write = state.write().unwrap();
    write.fleet(&fleet(number), "boot").unwrap();
    write.timetable(&timetable(number)).unwrap();
    write.generation(&generation(number)).unwrap();
    write.instance(&held(number)).unwrap();
    if number > 1 {
        write.forget_instance(&held(number - 1).instance.id).unwrap();
    }
    for n in 0..5 {
        write.event(&event(number * 10 + n)).unwrap();
    }
    let value = Secret::new(format!("hunter{number}"));
    assert_eq!(write.set_secret("password", &value, 7).unwrap(), u64::from(number));
    write.commit().unwrap();
}

/// What a state holds, as a number of commits; panics if it is anything that was never written.
pub(crate) fn commits(state: &State) -> u32 {
    let Some((found, boot)) = state.fleet().unwrap() else {
        assert_eq!(state.timetable().unwrap(), Timetable::default());
        assert!(state.events(None, 10).unwrap().events.is_empty());
        assert!(state.secrets().unwrap().is_empty());
        return 0;
    };
    let number = u32::try_from(found.generation).unwrap();
    assert_eq!((found, boot.as_str()), (fleet(number), "boot"));
    assert_eq!(state.timetable().unwrap(), timetable(number));
    let events = state.events(None, usize::MAX).unwrap().events;
    let texts: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
    let expected: Vec<_> = (1..=number).flat_map(|of| (0..5).map(move |n| event(of * 10 + n))).collect();
    assert_eq!(texts, expected);
    assert_eq!(state.generations().unwrap(), (1..=number).map(generation).collect::<Vec<_>>());
    assert_eq!(state.instances().unwrap(), [held(number)]);
    for of in 1..=u64::from(number) {
        let (version, value) = state.secret("password", Some(of)).unwrap().unwrap();
        assert_eq!((version, value.expose()), (of, format!("hunter{of}").as_bytes()));
    }
    assert_eq!(state.secret("password", None).unwrap().unwrap().0, u64::from(number));
    number
}
