//! From the manifest and what was built to the desired state.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use formic_client::Traffic;
use formic_gateway::tcp;
use formic_plan::Service;
use formic_reconcile::{Listen, Start};
use formic_spec::{
    ByteSize, Dependents, GATEWAY, Health, HumanDuration, Manifest, PROXY, Privileges, Probe, Resources,
    Restart, Revision, Share, Source, StopSignal, Strategy, Update,
};
use formic_supervise::Limits;

use super::artifacts::{keep, mark};
use super::build::Artifacts;
use super::routes::behind_gateway;
use super::{files, vault};
use crate::exit::{Failure, Outcome};

/// The manifest's services as they are wanted, and the gateway in front of them. `kept` is the folder where
/// the executables of Cargo packages are kept, `versions` has the present ones of the secrets.
pub(crate) fn services(
    manifest: &Manifest,
    folder: &Path,
    kept: &Path,
    artifacts: &Artifacts,
    versions: &BTreeMap<String, u64>,
) -> Outcome<Vec<Service>> {
    let mut services = Vec::new();
    for service in &manifest.services {
        let (program, mut args) = match &service.source {
            Source::Cargo(package) => {
                let built = artifacts.get(package).cloned();
                let program = built.ok_or_else(|| Failure::user(format!("{package} was not built")))?;
                (keep(kept, &program), Vec::new())
            }
            Source::Command(words) => {
                let (program, args) = words
                    .split_first()
                    .ok_or_else(|| Failure::user(format!("the command of {} is empty", service.name)))?;
                (program_path(program, folder), args.to_vec())
            }
            Source::Image(image) => {
                return Err(Failure::user(format!("{} is the image {image}", service.name))
                    .help("images need the Docker or the Kubernetes driver, which this version has not; use `cargo` or `command`"));
            }
        };
        let secrets = vault::present(service, versions)?;
        is_possible(service)?;
        args.extend(service.args.iter().cloned());
        let config =
            serde_json::to_string(&service.config).map_err(|error| Failure::bug("config").because(error))?;
        // What the service would read of the file if it ran by itself, then what is said outright.
        let mut env = service.settings.clone();
        env.extend(service.env.clone());
        env.entry("FORMIC_CONFIG".into()).or_insert(config);
        let named = files::named(service, folder);
        let files = files::digests(&named, kept);
        // A script is one of its files; a program of the system is told apart by nothing.
        let real = program.canonicalize().ok();
        let is_file =
            named.iter().any(|(place, path)| Some(path) == real.as_ref() && files.contains_key(place));
        let artifact = if is_file || program.is_relative() { String::new() } else { mark(&program) };
        let made_of = made_of(&artifact, &files);
        let revision = manifest
            .revision_with(&service.name, &made_of, versions)
            .ok_or_else(|| Failure::bug(format!("{} has no revision", service.name)))?;
        let start = Start {
            program,
            args,
            env,
            cwd: service.cwd.as_ref().map_or_else(|| folder.to_path_buf(), |cwd| folder.join(cwd)),
            port: service.port,
            listen: service
                .sockets
                .iter()
                .map(|(name, address)| Listen { name: name.clone(), address: *address })
                .collect(),
            health: service.health.clone(),
            restart: service.restart.clone(),
            stop_signal: service.stop.signal,
            secrets,
            privileges: service.privileges.clone(),
            system: false,
            limits: limits(&service.resources),
            artifact,
            files,
        };
        let process = manifest.process_with(&service.name, &made_of, versions);
        let mut wanted = Service::of(service, revision, json(&start)?);
        wanted.process = process;
        if has_fixed_address(&start) {
            wanted.update = one_by_one(wanted.update);
        }
        services.push(wanted);
    }
    services.extend(proxy(manifest, folder)?);
    services.extend(gateway(manifest, folder)?);
    Ok(services)
}

/// What tells a program, with the files that belong to it, from another.
fn made_of(artifact: &str, files: &BTreeMap<String, String>) -> String {
    if files.is_empty() {
        return artifact.to_owned();
    }
    Revision::of(&serde_json::json!({ "artifact": artifact, "files": files })).as_str().to_owned()
}

/// A user that is not there, or that this engine cannot be, is better told before anything is stopped for it.
fn is_possible(service: &formic_spec::Service) -> Outcome {
    use formic_supervise::NoAccount;
    let Err(error) = formic_reconcile::account::privileges(&service.privileges) else { return Ok(()) };
    let help = match &error {
        NoAccount::Forbidden(_) => {
            "run the engine as root, or take `user` out: instances run as whoever runs it"
        }
        NoAccount::Groupless(_) => "add `group`, by name or number",
        _ => "make it on the machine of the engine, or write another name or number",
    };
    Err(Failure::user(format!("{} cannot run as it should: {error}", service.name)).help(help))
}

/// What the manifest allows an instance.
pub(crate) fn limits(resources: &Resources) -> Limits {
    let memory = resources.memory.map(ByteSize::bytes);
    Limits { memory, cpu: resources.cpu, pids: resources.pids, ..Limits::default() }
}

/// Whether two instances cannot run beside one another, as both would listen on the same address.
fn has_fixed_address(start: &Start) -> bool {
    let listen = start.env.get("FORMIC_LISTEN").map(String::as_str);
    start.port.is_some_and(|port| port.fixed().is_some())
        || listen.is_some_and(|listen| !listen.ends_with(":0"))
}

/// An update that stops an instance before the one that takes its place starts.
fn one_by_one(update: Update) -> Update {
    Update {
        strategy: Strategy::Rolling,
        surge: Share::Count(0),
        unavailable: Share::Count(1),
        keep_old: HumanDuration::from_millis(0),
        ..update
    }
}

fn json(of: &impl serde::Serialize) -> Outcome<serde_json::Value> {
    serde_json::to_value(of)
        .map_err(|error| Failure::bug("how a service is started does not encode").because(error))
}

fn network(network: &formic_spec::Network) -> formic_gateway::Network {
    formic_gateway::Network { address: network.address, bits: network.bits }
}

/// The gateway: the same binary, in a process of its own, once what it exposes is ready.
fn gateway(manifest: &Manifest, folder: &Path) -> Outcome<Option<Service>> {
    let Some(gateway) = &manifest.gateway else { return Ok(None) };
    if manifest.service(GATEWAY).is_some() {
        return Err(Failure::user("a service cannot be called \"gateway\" while there is a [gateway]")
            .help("give the service another name"));
    }
    let config = formic_gateway::Config {
        app: manifest.app.name.clone(),
        listen: gateway.listen.into(),
        cors: gateway.cors.origins.clone(),
        max_body: usize::try_from(gateway.max_body.bytes()).unwrap_or(usize::MAX),
        priority: gateway.priority,
        trusted: gateway.trusted_proxies.iter().map(network).collect(),
        metrics: match gateway.metrics {
            formic_spec::Scrapers::Local => formic_gateway::Scrapers::Local,
            formic_spec::Scrapers::All => formic_gateway::Scrapers::All,
            formic_spec::Scrapers::None => formic_gateway::Scrapers::None,
        },
        labels: gateway.labels.clone(),
        timeout: Duration::from_secs(15),
        grace: Duration::from_secs(10),
        transport: gateway.transport.clone(),
        services: calls(manifest)?,
        instance: String::new(),
    };
    // How services are called is told to a gateway that runs, so it makes no other gateway.
    let lasting = formic_gateway::Config { services: BTreeMap::new(), ..config.clone() };
    let part = Part {
        name: GATEWAY,
        config: json(&config)?,
        lasting: json(&lasting)?,
        listen: vec![Listen { name: GATEWAY.into(), address: gateway.listen }],
        depends_on: behind_gateway(manifest),
        // Longer than its own grace, so that it ends before it is killed.
        grace: HumanDuration::from_millis(15_000),
    };
    part.wanted(folder).map(Some)
}

/// The proxy in front of the services that have one: the same binary once more, from the start on, as others of the
/// application may come by it.
fn proxy(manifest: &Manifest, folder: &Path) -> Outcome<Option<Service>> {
    let fronts = manifest.services.iter().filter_map(|service| Some((service, service.proxy.as_ref()?)));
    let fronts: Vec<_> = fronts.collect();
    // A connection may last as long as the instance behind it, which then has its own time to end.
    let Some(grace) = fronts.iter().map(|(service, _)| service.stop.grace.get()).max() else {
        return Ok(None);
    };
    let front = |proxy: &formic_spec::Proxy| tcp::Front {
        listen: proxy.listen,
        connect_timeout: proxy.connect_timeout.get(),
        max_connections: proxy.max_connections,
    };
    let services = fronts.iter().map(|(service, proxy)| (service.name.clone(), front(proxy))).collect();
    let config = json(&tcp::Config { services, grace })?;
    let listen = |(service, proxy): &(&formic_spec::Service, &formic_spec::Proxy)| Listen {
        name: service.name.clone(),
        address: proxy.listen,
    };
    let part = Part {
        name: PROXY,
        lasting: config.clone(),
        config,
        listen: fronts.iter().map(listen).collect(),
        depends_on: Vec::new(),
        grace: HumanDuration::from(grace + Duration::from_secs(5)),
    };
    part.wanted(folder).map(Some)
}

/// A part of the engine that is a process of its own.
struct Part {
    name: &'static str,
    config: serde_json::Value,
    /// What of it makes another one necessary.
    lasting: serde_json::Value,
    listen: Vec<Listen>,
    depends_on: Vec<String>,
    grace: HumanDuration,
}

impl Part {
    fn wanted(self, folder: &Path) -> Outcome<Service> {
        let own = std::env::current_exe()
            .map_err(|error| Failure::user("cannot find this binary").because(error))?;
        let artifact = mark(&own);
        let revision = Revision::of(&serde_json::json!({ "config": self.lasting, "binary": artifact }));
        let start = Start {
            program: own,
            args: vec![self.name.into()],
            env: BTreeMap::from([("FORMIC_CONFIG".into(), self.config.to_string())]),
            cwd: folder.to_path_buf(),
            port: None,
            listen: self.listen,
            health: Health {
                ready: Probe::Grpc,
                path: String::new(),
                command: Vec::new(),
                line: String::new(),
                interval: HumanDuration::from_millis(1000),
                timeout: HumanDuration::from_millis(1000),
                deadline: HumanDuration::from_millis(30_000),
            },
            restart: Restart::default(),
            stop_signal: StopSignal::default(),
            secrets: BTreeMap::new(),
            privileges: Privileges::default(),
            system: true,
            limits: Limits::default(),
            artifact,
            files: BTreeMap::new(),
        };
        Ok(Service {
            name: self.name.into(),
            revision,
            replicas: 1,
            process: None,
            depends_on: self.depends_on,
            conditions: BTreeMap::new(),
            dependents: Dependents::None,
            update: Update {
                min_ready: HumanDuration::from_millis(2000),
                // What is kept for a way back would go on to take connections of the sockets that they share.
                keep_old: HumanDuration::from_millis(0),
                ..Update::default()
            },
            job: None,
            cron: None,
            sets: None,
            completed: false,
            ready_within: HumanDuration::from_millis(30_000),
            grace: self.grace,
            start: json(&start)?,
        })
    }
}

/// How services are called by the gateway.
fn calls(manifest: &Manifest) -> Outcome<BTreeMap<String, Traffic>> {
    let read = |(name, traffic): (String, serde_json::Value)| {
        let read = serde_json::from_value(traffic);
        Ok((name, read.map_err(|error| Failure::bug("a checked policy does not read").because(error))?))
    };
    manifest.traffic_of(GATEWAY).into_iter().map(read).collect()
}

/// A program with a slash is meant from the manifest's folder; one without is looked up in `PATH`.
fn program_path(program: &str, folder: &Path) -> PathBuf {
    if program.contains('/') { folder.join(program) } else { program.into() }
}
