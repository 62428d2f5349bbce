//! What is kept of instances from turn to turn, whatever happens in whatever order. That it is what it would be if it were
//! made anew, `World::handle` looks at after each event.

use formic_core::Members;

use super::*;

/// One of what there is, by service and slot.
fn any(world: &World, random: &mut fastrand::Rng) -> Option<String> {
    let known = world.ids.iter().filter(|(_, id)| world.core.roster.contains(id));
    let mut known: Vec<&String> = known.map(|(slot, _)| slot).collect();
    known.sort();
    random.choice(known).cloned()
}

fn wanted(random: &mut fastrand::Rng) -> Vec<Service> {
    let mut services =
        vec![service("user", random.u32(0..4), &[]), service("order", random.u32(1..3), &["user"])];
    if random.u8(..) < 100 {
        services[0].revision = Revision::of(&random.u8(0..3).into());
    }
    services.retain(|_| random.u8(..) > 60);
    services
}

#[test]
fn what_is_kept_of_instances_is_what_there_is_whatever_happens() {
    let (mut replaced, mut forgotten) = (0, 0);
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(vec![service("user", 3, &[]), service("order", 2, &["user"])]);
        for _ in 0..60 {
            let before: Vec<InstanceId> = world.core.roster.ids().cloned().collect();
            let slot = any(&world, &mut random);
            match (random.u8(0..16), slot) {
                (0..4, Some(slot)) => drop(world.started(&slot)),
                (4..8, Some(slot)) => drop(world.probed(&slot, random.u8(..) > 40)),
                (8..10, Some(slot)) => drop(world.leader_exits(&slot, random.i32(0..2))),
                (10..13, Some(slot)) => drop(world.gone(&slot, false)),
                (13, Some(slot)) => {
                    let known: Members = [registered(&world.id(&slot), "127.0.0.1:7")].into_iter().collect();
                    world.handle(Event::Registered(known));
                }
                (14, _) => drop(world.apply(wanted(&mut random), None)),
                _ => drop(world.after(random.u64(0..20_000)).handle(Event::Timer)),
            }
            let all = &world.core.roster.observed().instances;
            if before.len() == all.len() {
                replaced += before.iter().zip(all).filter(|(before, now)| **before != now.id).count();
            }
            forgotten += before.len().saturating_sub(all.len());
        }
    }
    assert!(replaced > 50 && forgotten > 20, "{replaced} {forgotten}");
}
