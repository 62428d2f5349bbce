//! The tests of the suite, one function each.

use formic_core::RpcMethod;

use super::*;

/// How often a test that needs a lease to hold begins anew. On a real clock a machine can sleep through a
/// lease, and then its end is no fault of the registry's. It is the real clock that tells, so that nothing is
/// excused on a paused one.
const ARRANGEMENTS: usize = 5;

pub(super) async fn snapshot_first(subject: Subject) {
    let mut nobody = subject.follow(Some("order"));
    assert!(nobody.step().await.is_empty(), "nobody is there: {}", nobody.status());

    let a = subject.instance("order", "a", 1001);
    subject.writer.register(a.clone(), subject.long).await.expect("register");
    subject.expect_get("order", &[&a]).await;

    let mut late = subject.follow(Some("order"));
    if subject.immediate {
        late.step().await;
        assert!(late.holds(&[&a]), "the first item is {}", late.status());
    }
    late.expect(&[&a]).await;
    nobody.expect(&[&a]).await;
}

pub(super) async fn everything_travels(subject: Subject) {
    let mut full = subject.instance("order", "full", 1001);
    full.version = "9f8e7d6c".into();
    full.metadata = [("zone", "eu-1"), ("weight", "3"), ("empty", ""), ("umlaut", "Grüße=ä")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let method =
        RpcMethod { name: "Get".into(), kind: formic_core::Kind::Unary, idempotent: true, safe: true };
    full.rpc = vec![
        RpcService { name: "shop.order.v1.OrderService".into(), methods: vec![method] },
        RpcService { name: "shop.order.v1.AdminService".into(), methods: Vec::new() },
    ];
    let mut v6 = subject.instance("order", "v6", 1002);
    v6.endpoint = "[::1]:1002".parse().expect("an endpoint");
    subject.writer.register(full.clone(), subject.long).await.expect("register");
    subject.writer.register(v6.clone(), subject.long).await.expect("register");
    subject.expect_get("order", &[&full, &v6]).await;
    subject.follow(Some("order")).expect(&[&full, &v6]).await;
}

pub(super) async fn get_and_list(subject: Subject) {
    subject.expect_get("absent", &[]).await;
    let (a, b, c) = (
        subject.instance("order", "a", 1001),
        subject.instance("order", "b", 1002),
        subject.instance("user", "c", 1003),
    );
    for instance in [&b, &a, &c] {
        let lease = subject.writer.register(instance.clone(), subject.long).await.expect("register");
        assert_eq!(lease.instance, instance.id);
        assert!(!lease.ttl.is_zero());
    }
    subject.expect_get("order", &[&a, &b]).await;
    subject.expect_get("user", &[&c]).await;
    let found = subject.reader.get(&subject.service("order")).await.expect("get");
    assert!(found.is_sorted_by(|a, b| a.id < b.id), "unsorted: {}", shown(&found));

    let give_up = Instant::now() + subject.converge;
    let expected = [(subject.service("order"), 2), (subject.service("user"), 1)];
    loop {
        let all = subject.reader.list().await.expect("list");
        assert!(all.is_sorted_by(|a, b| a.service < b.service), "unsorted: {all:?}");
        let ours: Vec<_> = all.into_iter().map(|entry| (entry.service, entry.instances)).collect();
        if expected.iter().all(|entry| ours.contains(entry)) {
            return;
        }
        assert!(!subject.immediate && Instant::now() < give_up, "list answers {ours:?}");
        sleep(subject.converge / 50).await;
    }
}

pub(super) async fn invalid_is_refused(subject: Subject) {
    let good = subject.instance("order", "a", 1001);
    let mut nameless = good.clone();
    nameless.id = InstanceId::new("");
    let mut portless = good.clone();
    portless.endpoint = "127.0.0.1:0".parse().expect("an endpoint");
    let mut nowhere = good.clone();
    nowhere.endpoint = "0.0.0.0:80".parse().expect("an endpoint");
    let asked =
        [(nameless, subject.long), (portless, subject.long), (nowhere, subject.long), (good, Duration::ZERO)];
    for (instance, ttl) in asked {
        let answer = subject.writer.register(instance.clone(), ttl).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{} for {ttl:?}: {answer:?}", shown(&[instance]));
    }
    subject.expect_get("order", &[]).await;
}

pub(super) async fn deregister_is_idempotent(subject: Subject) {
    let a = subject.instance("order", "a", 1001);
    let mut watch = subject.follow(Some("order"));
    subject.writer.deregister(&a.id).await.expect("an unknown id is no error");
    let lease = subject.writer.register(a.clone(), subject.long).await.expect("register");
    watch.expect(&[&a]).await;
    subject.writer.deregister(&a.id).await.expect("deregister");
    subject.writer.deregister(&a.id).await.expect("deregister again");
    watch.expect(&[]).await;
    subject.expect_get("order", &[]).await;
    let renewed = subject.writer.renew(&lease).await;
    assert!(expired(renewed.clone()), "the lease ended with the registration: {renewed:?}");

    subject.writer.register(a.clone(), subject.long).await.expect("register again");
    watch.expect(&[&a]).await;
}

pub(super) async fn one_id_is_one_instance(subject: Subject) {
    let old = subject.instance("order", "a", 1001);
    let mut watch = subject.follow(Some("order"));
    let first = subject.writer.register(old.clone(), subject.long).await.expect("register");
    watch.expect(&[&old]).await;
    let mut new = subject.instance("order", "a", 1002);
    new.version = "2".into();
    new.metadata.insert("zone".into(), "b".into());
    let second = subject.writer.register(new.clone(), subject.long).await.expect("replace");
    assert_ne!(first.id, second.id, "each registration has a lease of its own");
    watch.expect(&[&new]).await;
    subject.expect_get("order", &[&new]).await;
    assert!(expired(subject.writer.renew(&first).await), "the lease of the replaced instance is over");
    subject.writer.renew(&second).await.expect("the new lease holds");

    // The same again, which a registrar does after any doubt, changes nothing for callers.
    let third = subject.writer.register(new.clone(), subject.long).await.expect("repeat");
    subject.writer.renew(&third).await.expect("renew");
    subject.expect_get("order", &[&new]).await;
}

pub(super) async fn an_id_moves_between_services(subject: Subject) {
    let (before, after) = (subject.instance("order", "a", 1001), subject.instance("user", "a", 1001));
    let (mut order, mut user) = (subject.follow(Some("order")), subject.follow(Some("user")));
    subject.writer.register(before.clone(), subject.long).await.expect("register");
    order.expect(&[&before]).await;
    subject.writer.register(after.clone(), subject.long).await.expect("move");
    user.expect(&[&after]).await;
    order.expect(&[]).await;
    subject.expect_get("order", &[]).await;
    subject.expect_get("user", &[&after]).await;
}

pub(super) async fn leases_expire(subject: Subject) {
    let (brief, lasting) = (subject.instance("order", "a", 1001), subject.instance("order", "b", 1002));
    let mut watch = subject.follow(Some("order"));
    subject.writer.register(lasting.clone(), subject.long).await.expect("register");
    let mut arrangements = 0;
    let lease = loop {
        arrangements += 1;
        let asked = std::time::Instant::now();
        let lease = subject.writer.register(brief.clone(), subject.short).await.expect("register");
        if watch.sees(&[&brief, &lasting]).await {
            break lease;
        }
        let slept = arrangements < ARRANGEMENTS && asked.elapsed() >= lease.ttl;
        assert!(slept, "the watch says {}, not {}", watch.status(), shown(&[&brief, &lasting]));
    };
    sleep(lease.ttl + Duration::from_millis(50)).await;
    // The watch must notice by itself: nobody has called anything since.
    watch.expect(&[&lasting]).await;
    subject.expect_get("order", &[&lasting]).await;
    assert!(expired(subject.writer.renew(&lease).await), "an expired lease cannot be renewed");

    let again = subject.writer.register(brief.clone(), subject.long).await.expect("register again");
    watch.expect(&[&brief, &lasting]).await;
    assert!(expired(subject.writer.renew(&lease).await), "the old lease stays dead");
    subject.writer.renew(&again).await.expect("the new one lives");
}

pub(super) async fn renewal_keeps(subject: Subject) {
    let a = subject.instance("order", "a", 1001);
    let mut watch = subject.follow(Some("order"));
    let mut arrangements = 1;
    while !renewed(&subject, &a, &mut watch, arrangements < ARRANGEMENTS).await {
        arrangements += 1;
    }
}

/// Whether a lease was renewed again and again, each time while it held; `false`, if that is `excused`, when
/// the machine slept through it.
async fn renewed(subject: &Subject, a: &Instance, watch: &mut Follower, excused: bool) -> bool {
    let mut since = std::time::Instant::now();
    let lease = subject.writer.register(a.clone(), subject.short).await.expect("register");
    let slept = |since: std::time::Instant| excused && since.elapsed() >= lease.ttl;
    if !watch.sees(&[a]).await {
        assert!(slept(since), "the watch says {}, not {}", watch.status(), shown(&[a]));
        return false;
    }
    for _ in 0..8 {
        sleep(lease.ttl / 3).await;
        let asked = std::time::Instant::now();
        let answer = subject.writer.renew(&lease).await;
        if expired(answer.clone()) && slept(since) {
            return false;
        }
        answer.expect("renewed in time");
        since = asked;
        if !subject.expect_get_unless("order", &[a], || slept(since)).await {
            return false;
        }
    }
    watch.drain(Duration::from_millis(1)).await;
    assert!(watch.holds(&[a]) || slept(since), "the watch says {}", watch.status());
    watch.holds(&[a])
}

pub(super) async fn watchers_see_what_they_asked_for(subject: Subject) {
    let (a, b) = (subject.instance("order", "a", 1001), subject.instance("user", "b", 1002));
    let (mut order, mut twin) = (subject.follow(Some("order")), subject.follow(Some("order")));
    let (mut user, mut all) = (subject.follow(Some("user")), subject.follow(None));
    subject.writer.register(a.clone(), subject.long).await.expect("register");
    subject.writer.register(b.clone(), subject.long).await.expect("register");
    order.expect(&[&a]).await;
    twin.expect(&[&a]).await;
    user.expect(&[&b]).await;
    all.expect(&[&a, &b]).await;

    drop(twin);
    subject.writer.deregister(&a.id).await.expect("deregister");
    order.expect(&[]).await;
    all.expect(&[&b]).await;
    user.drain(Duration::from_millis(1)).await;
    assert!(user.holds(&[&b]), "another service's change shows: {}", user.status());
}

pub(super) async fn a_slow_watcher_ends_up_right(subject: Subject) {
    let mut watch = subject.follow(Some("order"));
    watch.step().await;
    let before = watch.items;
    let steady = subject.instance("order", "steady", 1000);
    subject.writer.register(steady.clone(), subject.long).await.expect("register");
    let mut last = subject.instance("order", "a", 1001);
    for turn in 0..subject.churn {
        last.version = turn.to_string();
        subject.writer.register(last.clone(), subject.long).await.expect("register");
    }
    // Nothing was read meanwhile: what was piled up must be next to nothing, and the end must be right.
    subject.expect_get("order", &[&last, &steady]).await;
    watch.expect(&[&last, &steady]).await;
    let items = watch.items - before;
    assert!(items <= 8, "a slow watcher had {items} sets waiting for it");
}

pub(super) async fn no_update_is_lost_under_churn(subject: Subject) {
    const TASKS: usize = 4;
    let seed = fastrand::u64(..);
    tracing::info!(seed, "churn");
    let mut watches = [subject.follow(Some("order")), subject.follow(Some("user")), subject.follow(None)];
    let churn = futures::future::join_all((0..TASKS).map(|task| churn(&subject, task, seed)));
    let mut churn = std::pin::pin!(churn);
    let kept = loop {
        // One watcher reads along while the others fall behind.
        tokio::select! {
            kept = &mut churn => break kept,
            () = watches[2].take() => {}
        }
    };
    let kept: Vec<Instance> = kept.into_iter().flatten().collect();
    let of = |service: &str| {
        let name = subject.service(service);
        kept.iter().filter(move |instance| instance.service == name).collect::<Vec<_>>()
    };
    for (watch, expected) in watches.iter_mut().zip([of("order"), of("user"), kept.iter().collect()]) {
        watch.expect(&expected).await;
    }
    subject.expect_get("order", &of("order")).await;
    subject.expect_get("user", &of("user")).await;
}

/// Random operations over instances that nobody else touches; returns those that are left.
async fn churn(subject: &Subject, task: usize, seed: u64) -> Vec<Instance> {
    const IDS: usize = 3;
    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(task as u64));
    let mut kept: BTreeMap<usize, Instance> = BTreeMap::new();
    for turn in 0..subject.churn {
        let slot = random.usize(..IDS);
        let service = if random.bool() { "order" } else { "user" };
        let port = 2000 + u16::try_from(task * IDS + slot).expect("small");
        let mut instance = subject.instance(service, &format!("i{task}-{slot}"), port);
        instance.version = turn.to_string();
        if random.u8(..3) == 0 {
            subject.writer.deregister(&instance.id).await.expect("deregister");
            kept.remove(&slot);
        } else {
            subject.writer.register(instance.clone(), subject.long).await.expect("register");
            kept.insert(slot, instance);
        }
        tokio::task::yield_now().await;
    }
    kept.into_values().collect()
}
