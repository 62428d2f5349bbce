//! Scene 7: what all of it costs: a pick, an update of the set, and the whole way of a call through the client.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use formic::core::{InstanceId, Kind, Members, Method};
use formic::registry::{DynRegistry, Memory, Registry};
use formic::{Instance, ServiceName};
use formic_balance::policy::Choice;
use formic_balance::set::Seat;
use formic_balance::{Roster, Set, Traffic};
use formic_client::{Client, Config};
use formic_rpc::{Body, Call, Codec};

use super::finding::{Finding, Scene};
use super::stage::policy;
use super::{DEFAULT, POLICIES, Setting};
use crate::arguments::Arguments;
use crate::chart::{Bars, Figure, Panel};
use crate::discovery::Discovery;
use crate::programs::Programs;
use crate::report::median;
use crate::rpc;

const FEW: usize = 3;
const MANY: usize = 10_000;
/// In ns.
const MOST_PICK: [(usize, f64); 2] = [(FEW, 100.0), (MANY, 250.0)];
/// In µs.
const MOST_UPDATE: f64 = 50.0;
/// As many calls a second as 5 % of cost leave.
const LEAST_CALLS: f64 = 0.95;
/// A batch is over within a slice of the scheduler's, so that the median is of batches that nobody interrupted.
const PICKS: u32 = 2_000;
const BATCHES: usize = 501;
const UPDATES: usize = 45;
/// So many turns of the one thread, and an update has passed every task on its way.
const HOPS: usize = 8;
/// So many are looked for, each after its turns, before any is timed.
const CHECKED: usize = 20;
/// More bytes than caches hold, in so large parts.
const OTHERS: usize = 64 << 20;
const LINE: usize = 64;
const LEASE: Duration = Duration::from_secs(600);

pub(super) async fn play(setting: &Setting<'_>) -> Result<Scene> {
    let (mut findings, mut picks, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    for name in POLICIES {
        let traffic: Traffic = serde_json::from_value(policy(name))?;
        let mut costs = Vec::new();
        for (count, limit) in MOST_PICK {
            let cost = pick(&traffic, count)?;
            findings.push(Finding::at_most(name, &format!("a pick among {count}, ns"), cost, limit));
            costs.push(cost);
        }
        let update = update(&traffic)?;
        findings.push(Finding::at_most(
            name,
            &format!("an update of one among {MANY}, µs"),
            update,
            MOST_UPDATE,
        ));
        let (arrival, cold) = arrival(&traffic)?;
        findings.push(Finding::at_most(
            name,
            &format!("from the registry to the picker, one among {MANY}, µs"),
            arrival,
            MOST_UPDATE,
        ));
        findings.push(Finding::beside(name, "the same with cold caches, µs", cold));
        eprintln!(
            "scene 7: {name}: {update:.1} µs for an update, {arrival:.1} from the registry to the picker, {cold:.1} cold"
        );
        picks.push((name.to_owned(), costs));
        updates.push((name.to_owned(), vec![update, arrival, cold]));
    }
    let calls = calls(setting).await?;
    for (name, ratios) in &calls {
        for (subject, ratio) in CLIENTS[1..].iter().zip(&ratios[1..]) {
            let what = format!("calls/s ÷ bare connectrpc, {name}");
            findings.push(Finding::at_least(subject, &what, *ratio, LEAST_CALLS));
        }
    }
    let limits = MOST_PICK.map(|(count, limit)| (limit, format!("limit at {count}: {limit} ns")));
    let bars = |y: &str, log, series: &[&str], groups, limits| {
        let series = series.iter().map(|name| (*name).to_owned()).collect();
        Panel::Bars(Bars { y: y.into(), log, series, groups, limits })
    };
    let limit = vec![(MOST_UPDATE, format!("limit {MOST_UPDATE} µs"))];
    let least = vec![(LEAST_CALLS, format!("limit {LEAST_CALLS}"))];
    let panels = vec![
        bars("a pick, ns", false, &["3 endpoints", "10,000 endpoints"], picks, limits.to_vec()),
        bars(
            "an update of one of 10,000, µs",
            true,
            &["the balancer", "registry to picker", "with cold caches"],
            updates,
            limit,
        ),
        bars("calls/s ÷ bare connectrpc", false, &CLIENTS, calls, least),
    ];
    let setup = format!(
        "A pick and an update are timed in this process: {PICKS} picks, {BATCHES} times, the median; an update is one \
         instance of {MANY} replaced by another, {UPDATES} times, the median; from the registry to the picker is the whole of its \
         way within a process, from one call that deregisters and one that registers, through the registry's watch, the \
         cache and the client, to the set that calls pick from, one after the other like the updates; and once more \
         with caches that have just been filled with something else. The whole way of a call (policy, breaker, budget, deadline, metrics) is \
         `cargo xtask bench rpc` for {} alone: an echo of 64 bytes, Formic beside what it stands on. `{DEFAULT}` is the \
         default, and the limits are everybody's.",
        CLIENTS.join(", "),
    );
    let title = "7. What it costs".into();
    let note = "one core for picks and updates; processes of their own for calls".into();
    Ok(Scene { number: 7, title: "What it costs", setup, findings, figure: Figure { title, note, panels } })
}

/// Nanoseconds of a pick.
fn pick(traffic: &Traffic, count: usize) -> Result<f64> {
    let set = arrange(&mut Roster::new(), &instances(count)?, traffic);
    let mut random = 1u64;
    let mut samples = Vec::new();
    for _ in 0..BATCHES {
        let began = Instant::now();
        for _ in 0..PICKS {
            // A generator as quick as the client's own.
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let user = ["anna", "bob", "carla", "dave"][(random >> 62) as usize];
            let metadata = |name: &str| (name == "x-user").then_some(user);
            let now = Duration::from_secs(60);
            let choice = Choice { now, random, metadata: &metadata, usable: &|_| true, expendable: false };
            black_box(set.pick(black_box(&choice)));
        }
        samples.push(began.elapsed().as_nanos() as f64 / f64::from(PICKS));
    }
    Ok(median(&samples))
}

/// Microseconds of one instance's coming and another's going.
fn update(traffic: &Traffic) -> Result<f64> {
    let mut list = instances(MANY)?;
    let mut roster = Roster::new();
    let mut set = arrange(&mut roster, &list, traffic);
    let mut samples = Vec::new();
    for number in 0..UPDATES {
        let (gone, new) = (id(number * 7), instance(MANY + number)?);
        let began = Instant::now();
        list.remove(&gone);
        list.insert(new);
        // The set that it replaces ends with it, as it does for calls.
        set = arrange(&mut roster, &list, traffic);
        samples.push(began.elapsed().as_nanos() as f64 / 1e3);
    }
    drop(set);
    Ok(median(&samples))
}

/// Microseconds from the registry's being told until calls pick from the new set, on one thread; and as much with
/// caches that hold nothing of it.
fn arrival(traffic: &Traffic) -> Result<(f64, f64)> {
    let traffic = traffic.clone();
    let measured = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(arrivals(traffic))
    });
    measured.join().map_err(|_| anyhow!("the thread that measures has panicked"))?
}

async fn arrivals(traffic: Traffic) -> Result<(f64, f64)> {
    let (memory, name) = (Arc::new(Memory::new()), ServiceName::new("echo")?);
    for number in 0..MANY {
        memory.register(instance(number)?, LEASE).await?;
    }
    let registry: DynRegistry = memory.clone();
    let client = Client::new(registry, Config { traffic, ..Config::default() });
    // The first call begins to follow the service. Nobody answers it.
    let method = Method::new("/echo.Echo/Echo", Kind::Unary);
    let call = Call::new(method, Codec::Proto, Body::Message(Default::default()));
    let _ = client.of("echo").call(call).await;
    let is_there = |id: &InstanceId| {
        client.traffic(&name).endpoints.iter().any(|endpoint| endpoint.instance == id.as_str())
    };
    let mut others = vec![0u8; OTHERS];
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for number in 0..CHECKED + 2 * UPDATES {
        let (gone, new) = (id(number * 7), instance(MANY + number)?);
        let come = new.id.clone();
        if number >= CHECKED + UPDATES {
            others.iter_mut().step_by(LINE).for_each(|byte| *byte = byte.wrapping_add(1));
            black_box(&others);
        }
        let began = Instant::now();
        memory.deregister(&gone).await?;
        memory.register(new, LEASE).await?;
        for _ in 0..HOPS {
            tokio::task::yield_now().await;
        }
        let took = began.elapsed().as_nanos() as f64 / 1e3;
        // A look at ten thousand is not what is timed, nor what it leaves behind in caches and in the allocator.
        if number < CHECKED {
            ensure!(is_there(&come) && !is_there(&gone), "the update has not arrived after {HOPS} turns");
        } else if number < CHECKED + UPDATES {
            warm.push(took);
        } else {
            cold.push(took);
        }
    }
    client.shutdown().await;
    Ok((median(&warm), median(&cold)))
}

fn arrange(roster: &mut Roster, instances: &Members, traffic: &Traffic) -> Set {
    roster.arrange(instances, traffic, &Seat::default(), Duration::from_secs(60))
}

fn instances(count: usize) -> Result<Members> {
    (0..count).map(instance).collect()
}

fn id(number: usize) -> InstanceId {
    InstanceId::new(format!("echo-{number:08x}"))
}

fn instance(number: usize) -> Result<Instance> {
    let address = std::net::SocketAddr::from(([127, 0, (number >> 8) as u8, number as u8], 9_000));
    Ok(Instance {
        id: id(number),
        service: ServiceName::new("echo")?,
        version: String::new(),
        endpoint: address.into(),
        metadata: Default::default(),
        rpc: Vec::new(),
    })
}

/// The first is what the others are compared with.
const CLIENTS: [&str; 3] = ["connectrpc", "formic, HTTP", "formic"];

/// Calls a second of each client beside the first, by the number of callers.
async fn calls(setting: &Setting<'_>) -> Result<Vec<(String, Vec<f64>)>> {
    let programs = Programs::beside(setting.programs.clone(), setting.workspace)?;
    let folder = setting.scratch.join("cost");
    std::fs::create_dir_all(&folder)?;
    let discovery = Discovery::serve(&folder).await?;
    let measured = Duration::from_secs_f64((setting.seconds / 2.0).max(1.0));
    let arguments = Arguments {
        json: None,
        rounds: 3,
        measured,
        warm_up: Duration::from_millis(500),
        starts: 0,
        quick: false,
        calls: 0,
    };
    let rows = rpc::measure_some(&programs, &discovery, &folder, &arguments, &CLIENTS).await?;
    let mut levels: Vec<usize> = rows.iter().map(|row| row.callers).collect();
    levels.dedup();
    Ok(levels
        .into_iter()
        .map(|callers| {
            let of = rows.iter().filter(|row| row.callers == callers);
            (rpc::who(callers), of.map(|row| row.rps_ratio).collect())
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_is_a_set_of_so_many() {
        let traffic: Traffic = serde_json::from_value(policy("hash")).expect("a policy");
        let list = instances(300).expect("instances");
        let set = arrange(&mut Roster::new(), &list, &traffic);
        assert_eq!(set.len(), 300);
        let ids: std::collections::HashSet<_> = list.iter().map(|instance| &instance.id).collect();
        let addresses: std::collections::HashSet<_> =
            list.iter().map(|instance| instance.endpoint.to_string()).collect();
        assert_eq!((ids.len(), addresses.len()), (300, 300));
    }
}
