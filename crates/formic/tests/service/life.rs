//! The life of a service: hooks, background tasks, the end.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use formic::{Code, Failure, Stopping, tokio};
use formic_probe::{Action, Order, Prober};
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, name, order, registry, service, start, within};

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<&'static str>>>);

impl Diary {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn read(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// A hook that notes something.
    fn hook(&self, what: &'static str) -> impl FnOnce() -> std::future::Ready<formic::Result> + Send + use<> {
        let diary = self.clone();
        move || {
            diary.note(what);
            std::future::ready(Ok(()))
        }
    }
}

/// A registry of fixed content cannot be told of the service, which lives all the same.
#[tokio::test]
async fn a_registry_that_is_read_only_is_left_alone() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = formic::Service::embedded_with(
        name("probe"),
        Arc::new(formic::registry::Static::default()),
        |settings| settings.listen = free.to_string(),
    );
    let diary = Diary::default();
    let service = service.serve(Prober::new()).on_stop(diary.hook("stopped"));
    let stop = CancellationToken::new();
    let ended = tokio::spawn(service.run_until(stop.clone().cancelled_owned()));
    let channel = formic::Client::without_registry(Default::default()).at(free.into());
    let probe = formic_probe::ProbeClient::new(channel);
    formic_testing::wait_for("an answer", PATIENCE, async || probe.say(order("hi")).await.ok()).await;
    stop.cancel();
    within("the end", ended).await.unwrap().unwrap();
    assert_eq!(diary.read(), ["stopped"]);
}

#[tokio::test]
async fn hooks_run_in_order_around_everything_else() {
    let (registry, diary) = (registry(), Diary::default());
    let prober = Prober::new();
    let counts = prober.counts();
    let task = diary.clone();
    let service = service(&registry)
        .serve(prober)
        .on_start(diary.hook("start 1"))
        .on_start(diary.hook("start 2"))
        .on_stop(diary.hook("stop 1"))
        .on_stop(diary.hook("stop 2"))
        .background("writer", async move |stopping: Stopping| {
            task.note("task");
            stopping.wait().await;
            assert!(stopping.now());
            // What was handed over is still finished.
            tokio::time::sleep(Duration::from_millis(50)).await;
            task.note("task done");
        });
    let run = start(service, &registry).await;
    assert!(diary.read().starts_with(&["start 1", "start 2"]) || diary.read()[0] == "task");

    // A call in flight finishes before the task is told.
    let wait = Order { action: Action::ACTION_WAIT.into(), millis: 150, ..Order::default() };
    let call = tokio::spawn(run.probe().say(wait).into_future());
    formic_testing::wait_until("the call", PATIENCE, || counts.busy() == 1).await;
    let began = Instant::now();
    run.stop().await.unwrap();
    // The grace, which is thirty, is not waited out.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    call.await.unwrap().unwrap();
    let diary = diary.read();
    assert_eq!(diary[diary.len() - 3..], ["task done", "stop 1", "stop 2"], "{diary:?}");
}

#[tokio::test]
async fn a_start_that_fails_ends_the_service() {
    let (registry, diary) = (registry(), Diary::default());
    let task = diary.clone();
    let service = service(&registry)
        .serve(Prober::new())
        .background("writer", async move |stopping: Stopping| {
            stopping.wait().await;
            task.note("task told");
        })
        .on_start(async || Err(Failure::new("the database is not there")))
        .on_start(diary.hook("start 2"))
        .on_stop(diary.hook("stop"));
    let failure = within("the failure", service.run_until(std::future::pending())).await.unwrap_err();
    assert!(failure.to_string().contains("the database is not there"), "{failure}");
    assert_eq!(diary.read(), ["task told", "stop"]);
    assert!(registry.get(&name("probe")).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_end_may_be_asked_for_during_the_start() {
    let registry = registry();
    let service = service(&registry).on_start(async || std::future::pending().await);
    let stop = CancellationToken::new();
    let ended = tokio::spawn(service.run_until(stop.clone().cancelled_owned()));
    tokio::task::yield_now().await;
    stop.cancel();
    within("the end", ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn it_is_not_ready_before_its_start_is_over() {
    let registry = registry();
    let go = CancellationToken::new();
    let wait = go.clone();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let service = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
        settings.listen = port.to_string();
        settings.drain.propagation = Duration::ZERO;
    })
    .serve(Prober::new())
    .on_start(async move || {
        wait.cancelled().await;
        Ok(())
    });
    let stop = CancellationToken::new();
    let ended = tokio::spawn(service.run_until(stop.clone().cancelled_owned()));
    formic_testing::wait_for("the port", PATIENCE, async || tokio::net::TcpStream::connect(port).await.ok())
        .await;
    let client = formic::Client::without_registry(Default::default());
    let health = formic::server::proto::health::v1::HealthClient::new(client.at(port.into()));
    let status = async || {
        let request = formic::server::proto::health::v1::HealthCheckRequest::default();
        health.check(request).await.unwrap().status.to_i32()
    };
    assert_eq!(status().await, 2, "NOT_SERVING");
    assert!(registry.get(&name("probe")).await.unwrap().is_empty());
    go.cancel();
    formic_testing::wait_for("the service to be ready", PATIENCE, async || {
        (status().await == 1).then_some(())
    })
    .await;
    stop.cancel();
    within("the end", ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_task_that_panics_ends_the_service_and_one_that_ends_does_not() {
    let registry = registry();
    let ends = service(&registry).serve(Prober::new()).background("ends", async |_| {});
    let run = start(ends, &registry).await;
    run.probe().say(order("hi")).await.unwrap();
    run.stop().await.unwrap();

    let service = service(&registry).background("breaks", async |_| panic!("as told"));
    let failure = within("the failure", service.run_until(std::future::pending())).await.unwrap_err();
    assert!(failure.to_string().contains("background task panicked"), "{failure}");
}

#[tokio::test]
async fn nothing_outlives_its_bound() {
    let registry = registry();
    let prober = Prober::new();
    let counts = prober.counts();
    let service = formic::Service::embedded_with(name("probe"), registry.clone(), |settings| {
        settings.drain.propagation = Duration::ZERO;
        settings.drain.grace = Duration::from_millis(200);
    })
    .serve(prober)
    .background("deaf", async |_| std::future::pending().await)
    .on_stop(async || Err(Failure::new("cannot flush")))
    .on_stop(async || std::future::pending().await);
    let run = start(service, &registry).await;
    let hang = Order { action: Action::ACTION_HANG.into(), ..Order::default() };
    let call = tokio::spawn(run.probe().say(hang).timeout(Duration::from_secs(60)).into_future());
    formic_testing::wait_until("the call", PATIENCE, || counts.busy() == 1).await;
    let began = Instant::now();
    let failure = run.stop().await.unwrap_err();
    // The grace, then a second each for tasks and hooks.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(failure.to_string().contains("outlived the grace"), "{failure}");
    let error = within("the caller to hear of it", call).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
