//! From the desired state to the program, arguments and environment of one instance.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use formic_core::ServiceName;
use formic_plan::Instance;
use formic_spec::Health;
use formic_supervise::{Beside, Launch};

use super::Config;
use super::cell::Output;
use crate::start::Start;

/// Where an instance is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Which of its service's data folders it has.
    pub(crate) seat: u32,
    /// The port that it is given, where that is known: one that is chosen at the start is put in then.
    pub(crate) port: Option<u16>,
}

/// How an instance is started. `inherited` is the part of the engine's environment that it gets.
pub(crate) fn launch(
    config: &Config,
    inherited: &BTreeMap<String, OsString>,
    instance: &Instance,
    place: Place,
    service: ServiceName,
    start: &Start,
) -> Launch {
    let Place { seat, port } = place;
    let version = instance.revision.short();
    let mut env = inherited.clone();
    if start.privileges.user.is_some() {
        // The engine's, who is somebody else; the supervisor says whose they are.
        for name in ["HOME", "USER"] {
            env.remove(name);
        }
    }
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), OsString::from(value));
    set("FORMIC_APP", &config.app);
    set("FORMIC_SERVICE", service.as_str());
    set("FORMIC_VERSION", version);
    set("FORMIC_DAEMON", &config.daemon);
    set("FORMIC_LISTEN", "127.0.0.1:0");
    if let Some(port) = port {
        set("PORT", &port.to_string());
    }
    for (name, value) in &start.env {
        set(name, value);
    }
    env.insert("FORMIC_DATA_DIR".into(), data_dir(&config.data, service.as_str(), seat).into());
    let output = Output::of(&config.logs, service.as_str(), &instance.id);
    Launch {
        id: formic_core::InstanceId::new(instance.id.as_str()),
        service,
        slot: instance.slot,
        revision: version.to_owned(),
        program: start.program.clone().into(),
        args: start.args.iter().map(Into::into).collect(),
        env,
        cwd: start.cwd.clone(),
        stdout: output.stdout,
        stderr: output.stderr,
    }
}

/// What an `exec` probe runs beside an instance that was launched like this. A program with a slash is meant
/// from the instance's working directory, as it would be at a prompt there.
pub(crate) fn check(health: &Health, launch: Launch) -> Option<Beside> {
    let (program, args) = health.command.split_first()?;
    let program = if program.contains('/') { launch.cwd.join(program).into() } else { program.into() };
    let args = args.iter().map(Into::into).collect();
    Some(Beside { program, args, env: launch.env, cwd: launch.cwd })
}

/// The data of one seat: two replicas must not write to the same files. The dot is in no name of a service,
/// so seat 1 of `order` and seat 0 of a service `order-1` cannot meet.
pub(crate) fn data_dir(data: &Path, service: &str, seat: u32) -> PathBuf {
    if seat == 0 { data.join(service) } else { data.join(format!("{service}.{seat}")) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_plan::{Service, Time};
    use formic_spec::{HumanDuration, Port, Probe, Restart, Revision};

    use super::*;

    fn start() -> Start {
        Start {
            program: "/bin/order".into(),
            args: vec!["--fast".into()],
            env: BTreeMap::from([
                ("FORMIC_LISTEN".to_owned(), "127.0.0.1:7000".to_owned()),
                ("FORMIC_DATA_DIR".to_owned(), "/elsewhere".to_owned()),
            ]),
            cwd: "/srv".into(),
            port: Some(Port::Fixed(8000)),
            listen: Vec::new(),
            health: Health {
                ready: Probe::None,
                path: String::new(),
                command: Vec::new(),
                line: String::new(),
                interval: HumanDuration::from_millis(1000),
                timeout: HumanDuration::from_millis(1000),
                deadline: HumanDuration::from_millis(1000),
            },
            restart: Restart::default(),
            stop_signal: Default::default(),
            secrets: BTreeMap::new(),
            privileges: Default::default(),
            system: false,
            limits: Default::default(),
            artifact: String::new(),
            files: Default::default(),
        }
    }

    fn launched(seat: u32) -> Launch {
        let service: Service = serde_json::from_value(serde_json::json!({
            "name": "order", "revision": Revision::of(&1.into()), "replicas": 2, "depends_on": [],
            "ready_within": "1s", "grace": "1s",
        }))
        .unwrap();
        let config = Config {
            app: "shop".into(),
            logs: "/state/logs".into(),
            data: "/state/data".into(),
            daemon: "unix:/state/api.sock".into(),
        };
        let id = formic_plan::InstanceId::from("order-1");
        let instance = Instance::begin(id, &service, 0, None, Time::from_millis(0));
        let inherited = BTreeMap::from([("PATH".to_owned(), OsString::from("/bin"))]);
        let place = Place { seat, port: start().port.and_then(Port::fixed) };
        launch(&config, &inherited, &instance, place, ServiceName::new("order").unwrap(), &start())
    }

    #[test]
    fn the_manifest_may_say_where_to_listen_and_not_where_the_data_is() {
        let launch = launched(0);
        let env = |name: &str| launch.env.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(env("FORMIC_LISTEN"), "127.0.0.1:7000");
        assert_eq!(env("FORMIC_DATA_DIR"), "/state/data/order");
        assert_eq!(
            (env("PATH"), env("PORT"), env("FORMIC_APP")),
            ("/bin".into(), "8000".into(), "shop".into())
        );
        assert_eq!(launch.stderr, Path::new("/state/logs/order/order-1.err.log"));
        assert_eq!(launch.stdout, Path::new("/state/logs/order/order-1.out.log"));
        assert_eq!(launch.validate(), Ok(()));
    }

    #[test]
    fn each_seat_has_its_own_data() {
        let launch = launched(1);
        assert_eq!(launch.env.get("FORMIC_DATA_DIR").unwrap(), "/state/data/order.1");
        // The name of seat 1 is the name of no service.
        assert!(ServiceName::new("order.1").is_err());
    }
}
