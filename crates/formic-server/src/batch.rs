//! Requests of an HTTP/2 connection that come together are answered together.
//!
//! hyper gives each request to an executor, which is meant to make a task of it. Most handlers are done sooner than a task
//! is made and another thread woken for it. So requests are put aside here until the connection has read all there is; then
//! each is tried once where it was read, what is not done becomes a task, and the answers go out in one write. Whose
//! handlers compute for long is learnt as on the multiplexed wire, and they become tasks at once.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use formic_mux::learn::Learnt;
use formic_rpc::BoxFuture;
use futures::task::AtomicWaker;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

/// So many are tried one after the other; those after them become tasks, so that other threads have a part in it.
const AT_ONCE: usize = 128;

/// A connection that is asked on and on gives way after so many rounds.
const TURNS: usize = 16;

/// What a connection was asked and has not begun.
#[derive(Clone, Default)]
pub(crate) struct Batch(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    door: Arc<Door>,
    tasks: Arc<Tasks>,
    /// Others were let by since the connection was polled.
    yielded: AtomicBool,
}

/// Requests that became tasks.
#[derive(Default)]
struct Tasks {
    /// How many have not ended.
    open: AtomicUsize,
    /// One of them was at work, and may have said something.
    spoke: AtomicBool,
}

/// A request that became a task.
struct Task<F: ?Sized> {
    counted: Counted,
    future: Pin<Box<F>>,
}

/// One of those that were counted.
struct Counted(Arc<Tasks>);

impl Counted {
    fn one(of: &Arc<Tasks>) -> Self {
        of.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(of))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()> + ?Sized> Future for Task<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.counted.0.spoke.store(true, Ordering::Relaxed);
        self.future.as_mut().poll(cx)
    }
}

/// The waker that the connection gets. An answer wakes its connection so that it is written; while the connection is
/// polled it is written anyway, and the task would be polled once more for nothing, on another thread that is woken for it.
#[derive(Default)]
struct Door {
    task: AtomicWaker,
    /// The connection is being polled.
    inside: AtomicBool,
    /// It was woken meanwhile.
    knocked: AtomicBool,
}

impl Wake for Door {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order, and the other way round where it is looked at: one of both sees the other.
        self.knocked.store(true, Ordering::SeqCst);
        if !self.inside.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[derive(Default)]
struct Waiting {
    /// What is known of the request that hyper hands over next.
    next: Option<Arc<Learnt>>,
    requests: Vec<(Arc<Learnt>, BoxFuture<'static, ()>)>,
}

impl Batch {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request being taken is to a method of which so much is known; of others nothing is.
    pub(crate) fn expect(&self, learnt: Option<&Arc<Learnt>>) {
        self.waiting().next = learnt.cloned();
    }

    /// Drives a connection, and what it is asked.
    pub(crate) fn poll<C: Future>(&self, connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        // Whoever has something to say is one of many, if there are many: one write for all of them. A scheduler would run this task
        // right after the first.
        let tasks = &self.0.tasks;
        if tasks.open.load(Ordering::Relaxed) > 1
            && tasks.spoke.swap(false, Ordering::Relaxed)
            && !self.0.yielded.swap(true, Ordering::Relaxed)
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.yielded.store(false, Ordering::Relaxed);
        let door = &self.0.door;
        door.task.register(cx.waker());
        door.inside.store(true, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(door));
        let polled = self.poll_inside(connection, &mut Context::from_waker(&waker));
        door.inside.store(false, Ordering::SeqCst);
        if polled.is_pending() && door.knocked.swap(false, Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn spawn<F: Future<Output = ()> + Send + ?Sized + 'static>(&self, future: Pin<Box<F>>) {
        TokioExecutor::new().execute(Task { counted: Counted::one(&self.0.tasks), future });
    }

    fn poll_inside<C: Future>(&self, mut connection: Pin<&mut C>, cx: &mut Context<'_>) -> Poll<C::Output> {
        for _ in 0..TURNS {
            // What happened before this is seen by the poll.
            self.0.door.knocked.store(false, Ordering::SeqCst);
            let polled = connection.as_mut().poll(cx);
            let requests = std::mem::take(&mut self.waiting().requests);
            if requests.is_empty() {
                return polled;
            }
            let is_over = polled.is_ready();
            for (index, (learnt, request)) in requests.into_iter().enumerate() {
                if is_over || index >= AT_ONCE {
                    self.spawn(request);
                } else if let Some(request) = attempt(&learnt, request) {
                    self.spawn(request);
                }
            }
            if is_over {
                return polled;
            }
            // Once more, for what was answered goes out.
        }
        // Others are to have their turn too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Tries a request here; what is not done is the result.
fn attempt(learnt: &Learnt, mut request: BoxFuture<'static, ()>) -> Option<BoxFuture<'static, ()>> {
    let began = learnt.measures().then(Instant::now);
    // Nobody is woken: what is not done is polled again as a task.
    let mut cx = Context::from_waker(Waker::noop());
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut cx)));
    if let Some(began) = began {
        learnt.note(began.elapsed());
    }
    match polled {
        Ok(Poll::Ready(())) => None,
        Ok(Poll::Pending) => Some(request),
        // As in a task of its own: it ends, and the others go on. The panic itself was told of.
        Err(_) => {
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(request)));
            None
        }
    }
}

impl<F> Executor<F> for Batch
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut waiting = self.waiting();
        match waiting.next.take() {
            Some(learnt) if !learnt.is_slow() => waiting.requests.push((learnt, Box::pin(future))),
            known => {
                drop(waiting);
                match known.filter(|learnt| learnt.measures()) {
                    Some(learnt) => {
                        self.spawn(Box::pin(Measured { future: Box::pin(future), learnt: Some(learnt) }));
                    }
                    None => self.spawn(Box::pin(future)),
                }
            }
        }
    }
}

/// A request to a slow method, whose first poll is measured all the same: it may have become quick.
struct Measured {
    future: BoxFuture<'static, ()>,
    learnt: Option<Arc<Learnt>>,
}

impl Future for Measured {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.learnt.take() {
            Some(learnt) => {
                let began = Instant::now();
                let polled = self.future.as_mut().poll(cx);
                learnt.note(began.elapsed());
                polled
            }
            None => self.future.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::atomic::AtomicUsize;
    use std::task::ready;
    use std::time::Duration;

    use formic_mux::learn::Book;
    use tokio::sync::mpsc;

    use super::*;

    /// A connection that hands over a request at each poll as long as there are some, and counts its polls.
    struct Connection {
        batch: Batch,
        learnt: Arc<Learnt>,
        requests: Vec<BoxFuture<'static, ()>>,
        polls: Arc<AtomicUsize>,
        end: mpsc::Receiver<()>,
    }

    impl Future for Connection {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.polls.fetch_add(1, Ordering::SeqCst);
            let this = &mut *self;
            for request in this.requests.drain(..) {
                this.batch.expect(Some(&this.learnt));
                this.batch.execute(request);
            }
            ready!(this.end.poll_recv(cx));
            Poll::Ready(())
        }
    }

    fn connection(requests: Vec<BoxFuture<'static, ()>>) -> (Connection, mpsc::Sender<()>) {
        let (stop, end) = mpsc::channel(1);
        let learnt = Book::default().of(&"/p.S/M".into());
        (Connection { batch: Batch::default(), learnt, requests, polls: Arc::default(), end }, stop)
    }

    #[tokio::test]
    async fn all_are_answered_before_the_connection_goes_on() {
        let done = Arc::new(AtomicUsize::new(0));
        let request = |_| -> BoxFuture<'static, ()> {
            let done = Arc::clone(&done);
            Box::pin(async move { _ = done.fetch_add(1, Ordering::SeqCst) })
        };
        let (connection, _stop) = connection((0..5).map(request).collect());
        let (batch, polls) = (connection.batch.clone(), Arc::clone(&connection.polls));
        let mut connection = Box::pin(connection);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(batch.poll(connection.as_mut(), &mut cx).is_pending());
        assert_eq!(done.load(Ordering::SeqCst), 5, "none became a task");
        assert_eq!(polls.load(Ordering::SeqCst), 2, "once to read, once to write");
    }

    #[tokio::test]
    async fn what_waits_becomes_a_task_and_a_panic_ends_only_its_own() {
        let (tell, mut told) = mpsc::channel(4);
        let waits = |text: &'static str| -> BoxFuture<'static, ()> {
            let tell = tell.clone();
            Box::pin(async move {
                tokio::task::yield_now().await;
                tell.send(text).await.unwrap();
            })
        };
        let panics: BoxFuture<'static, ()> = Box::pin(async { panic!("as meant") });
        let (connection, stop) = connection(vec![waits("first"), panics, waits("second")]);
        let batch = connection.batch.clone();
        let mut connection = Box::pin(connection);
        let served = tokio::spawn(std::future::poll_fn(move |cx| batch.poll(connection.as_mut(), cx)));
        assert_eq!((told.recv().await, told.recv().await), (Some("first"), Some("second")));
        drop(stop);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn who_computes_for_long_is_not_waited_for() {
        let (connection, _stop) = connection(vec![Box::pin(async {})]);
        (0..20).for_each(|_| connection.learnt.note(Duration::from_millis(1)));
        let batch = connection.batch.clone();
        batch.expect(Some(&connection.learnt));
        let (tell, told) = tokio::sync::oneshot::channel();
        batch.execute(async move { _ = tell.send(()) });
        assert!(batch.waiting().requests.is_empty(), "it is a task");
        told.await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_with_the_end_is_still_answered() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let (connection, stop) = connection(vec![Box::pin(async move { _ = tell.send(()) })]);
        drop(stop);
        let batch = connection.batch.clone();
        let mut connection = Box::pin(connection);
        std::future::poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await;
        told.await.unwrap();
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn an_answer_wakes_nobody_and_what_comes_later_does() {
        let kept = Arc::new(Mutex::new(None::<Waker>));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let (batch, learnt) = (Batch::default(), Book::default().of(&"/p.S/M".into()));
        let mut asked = false;
        let mut connection = Box::pin(std::future::poll_fn(|cx| {
            *kept.lock().unwrap() = Some(cx.waker().clone());
            if !std::mem::replace(&mut asked, true) {
                let kept = Arc::clone(&kept);
                batch.expect(Some(&learnt));
                // As an answer does.
                batch.execute(async move { kept.lock().unwrap().clone().unwrap().wake() });
            }
            Poll::<()>::Pending
        }));
        let mut cx = Context::from_waker(&waker);
        assert!(batch.poll(connection.as_mut(), &mut cx).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "it was written at once");
        kept.lock().unwrap().clone().unwrap().wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "something came");
        // Woken by its own poll, as one that has used up its share: it is polled again, and not at once.
        let mut tired = Box::pin(std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        assert!(batch.poll(tired.as_mut(), &mut cx).is_pending());
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    /// On one thread, which would run the connection right after the first who wakes it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_many_say_at_once_is_written_at_once() {
        const MANY: usize = 16;
        const ROUNDS: usize = 50;
        let waker = Arc::new(AtomicWaker::new());
        let learnt = Book::default().of(&"/p.S/M".into());
        let (batch, polls) = (Batch::default(), Arc::new(AtomicUsize::new(0)));
        let done = Arc::new(AtomicUsize::new(0));
        let mut asked = false;
        let (asking, counted, ended) = (batch.clone(), Arc::clone(&polls), Arc::clone(&done));
        let mut connection = Box::pin(std::future::poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::SeqCst);
            waker.register(cx.waker());
            if !std::mem::replace(&mut asked, true) {
                for _ in 0..MANY {
                    let (waker, ended) = (Arc::clone(&waker), Arc::clone(&ended));
                    asking.expect(Some(&learnt));
                    asking.execute(async move {
                        for _ in 0..ROUNDS {
                            tokio::task::yield_now().await;
                            // As a message of a stream does.
                            waker.wake();
                        }
                        ended.fetch_add(1, Ordering::SeqCst);
                    });
                }
            }
            Poll::<()>::Pending
        }));
        let driving = batch.clone();
        let served = tokio::spawn(std::future::poll_fn(move |cx| driving.poll(connection.as_mut(), cx)));
        let all = async {
            while done.load(Ordering::SeqCst) < MANY || batch.0.tasks.open.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
        served.abort();
        let polls = polls.load(Ordering::SeqCst);
        assert!(polls < MANY * ROUNDS / 4, "{polls} polls for {MANY} who spoke {ROUNDS} times together");
    }

    #[tokio::test]
    async fn streams_that_say_nothing_hold_nobody_up() {
        let (batch, learnt) = (Batch::default(), Book::default().of(&"/p.S/M".into()));
        let (asking, mut polls) = (batch.clone(), 0);
        let mut connection = Box::pin(std::future::poll_fn(|_| {
            polls += 1;
            if polls == 1 {
                for _ in 0..2 {
                    asking.expect(Some(&learnt));
                    asking.execute(std::future::pending());
                }
            }
            if polls == 4 { Poll::Ready(()) } else { Poll::Pending }
        }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            batch.poll(connection.as_mut(), &mut cx).is_pending(),
            "it was asked, and has looked once more"
        );
        // Each is polled as a task, and waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(batch.poll(connection.as_mut(), &mut cx).is_pending(), "they were at work");
        assert!(batch.poll(connection.as_mut(), &mut cx).is_pending(), "the third");
        assert!(batch.poll(connection.as_mut(), &mut cx).is_ready(), "nobody was at work since");
    }
}
