//! Callers who are woken together, and the connection's task that lets them go first.
//!
//! Each wake of a task has the scheduler look for a thread that could help, as long as there is one without work. Such a thread finds
//! the one task that was woken so far, runs it, and sleeps again until the next is woken: with many answers in one read that is a
//! change of threads for nearly each of them. So callers are woken when the thread has nothing else to do, all at a time, after which
//! the scheduler looks for help once.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::link::Clock;

/// Nobody waits longer than this for a thread to have nothing else to do, and a little more for another thread to see that.
const PATIENCE: Duration = Duration::from_micros(500);

/// Where it took longer, so many crowds are woken at once.
const HASTE: u32 = 64;

/// Wakes crowds, one after the other.
pub(super) struct Crowd {
    waiting: Arc<Waiting>,
    /// Wakes all who wait.
    all: Waker,
    clock: Clock,
}

#[derive(Default)]
struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    wakers: Vec<Waker>,
    /// The runtime's clock: on one that is paused, it is no matter of how busy the machine is who is woken when.
    since: Option<Instant>,
    haste: u32,
}

impl Crowd {
    pub(super) fn new() -> Self {
        let waiting = Arc::<Waiting>::default();
        Self { all: Waker::from(Arc::clone(&waiting)), waiting, clock: Clock::new() }
    }

    /// Wakes these: one at once, and several as soon as the thread has nothing else to do.
    pub(super) fn wake(&self, wakers: &mut Vec<Waker>) {
        self.hurry();
        if wakers.len() > 1 {
            let mut state = self.waiting.state();
            if state.haste > 0 {
                state.haste -= 1;
            } else {
                state.wakers.append(wakers);
                self.wait(state);
            }
        }
        wakers.drain(..).for_each(Waker::wake);
    }

    /// Has a task that goes on polled again, as soon as the thread has nothing else to do, and after those who wait.
    pub(super) fn let_by(&self, own: &Waker) {
        self.hurry();
        let mut state = self.waiting.state();
        if state.haste > 0 {
            state.haste -= 1;
            drop(state);
            return own.wake_by_ref();
        }
        // A scheduler runs first whom it was told of last.
        let at = state.wakers.len().saturating_sub(1);
        state.wakers.insert(at, own.clone());
        self.wait(state);
    }

    /// Has the connection's task polled again in time for those who wait now. What it leaves to a thread that is busy no other thread
    /// can take from there.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(since) = self.waiting.state().since else { return };
            let due = self.clock.at(since + PATIENCE);
            if !self.clock.poll(cx, Some(due)) {
                return;
            }
            self.hurry();
        }
    }

    /// Gives back the room of those who waited.
    pub(super) fn shrink(&self) {
        self.waiting.state().wakers.shrink_to(0);
    }

    /// What the scheduler does for a task that lets others go first. Outside of one it wakes at once.
    fn wait(&self, mut state: MutexGuard<'_, State>) {
        state.since.get_or_insert_with(Instant::now);
        drop(state);
        if pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&self.all)).is_ready() {
            self.waiting.wake_all();
        }
    }

    /// The thread where some wait may be busy while this one is not.
    fn hurry(&self) {
        if self.waiting.state().is_late() {
            self.waiting.wake_all();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.waiting.wake_all();
    }
}

impl State {
    fn is_late(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let mut state = self.state();
        if state.is_late() {
            state.haste = HASTE;
        }
        state.since = None;
        let mut wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.drain(..).for_each(Waker::wake);
        let mut state = self.state();
        if state.wakers.capacity() == 0 {
            // The room is used again.
            state.wakers = wakers;
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Count {
        fn wakers(self: &Arc<Self>, count: usize) -> Vec<Waker> {
            (0..count).map(|_| Waker::from(Arc::clone(self))).collect()
        }

        fn woken(&self) -> usize {
            self.0.swap(0, Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_woken_together_once_the_thread_has_nothing_else_to_do() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        crowd.wake(&mut count.wakers(1));
        assert_eq!(count.woken(), 1, "one waits for nobody");
        crowd.wake(&mut count.wakers(3));
        crowd.wake(&mut count.wakers(2));
        crowd.let_by(&count.wakers(1)[0]);
        assert_eq!(count.woken(), 0);
        tokio::task::yield_now().await;
        assert_eq!(count.woken(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_has_much_to_do_is_not_waited_for_but_once_in_a_while() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        crowd.wake(&mut count.wakers(3));
        tokio::time::advance(2 * PATIENCE).await;
        assert_eq!(count.woken(), 3);
        for _ in 0..HASTE / 2 {
            crowd.wake(&mut count.wakers(3));
            assert_eq!(count.woken(), 3, "at once");
            crowd.let_by(&count.wakers(1)[0]);
            assert_eq!(count.woken(), 1, "at once");
        }
        crowd.wake(&mut count.wakers(3));
        assert_eq!(count.woken(), 0, "it is tried again");
        tokio::task::yield_now().await;
        assert_eq!(count.woken(), 3);
    }

    #[tokio::test]
    async fn who_waits_on_a_busy_thread_is_woken_from_another() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        crowd.wake(&mut count.wakers(3));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(2 * PATIENCE);
                crowd.wake(&mut count.wakers(1));
            });
        });
        assert_eq!(count.woken(), 4);
    }

    /// A connection's task that is polled only when it asks for it, and whose thread is busy from its first poll on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_on_a_busy_thread_is_woken_in_time() {
        const BUSY: Duration = Duration::from_secs(2);
        let mut tries = 0;
        loop {
            let (mut crowd, count) = (Crowd::new(), Arc::<Count>::default());
            let (wakers, (said, heard)) = (count.wakers(3), std::sync::mpsc::channel());
            let mut wakers = Some(wakers);
            let task = tokio::spawn(std::future::poll_fn(move |cx| {
                if let Some(mut wakers) = wakers.take() {
                    crowd.wake(&mut wakers);
                    let (said, thread) = (said.clone(), std::thread::current().id());
                    // It is the next that this thread does, unless the other one is quicker.
                    drop(tokio::spawn(async move {
                        let same = std::thread::current().id() == thread;
                        let _ = said.send(same);
                        if same {
                            std::thread::sleep(BUSY);
                        }
                    }));
                }
                crowd.watch(cx);
                std::task::Poll::<()>::Pending
            }));
            let began = std::time::Instant::now();
            let same = tokio::task::block_in_place(|| heard.recv_timeout(Duration::from_secs(10))).unwrap();
            while same && count.0.load(Ordering::SeqCst) < 3 {
                assert!(began.elapsed() < BUSY / 2, "nobody wakes them");
                std::thread::sleep(PATIENCE);
            }
            task.abort();
            tries += 1;
            if same {
                break;
            }
            assert!(tries < 1000, "the other thread is always quicker");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_clock_that_is_paused_nothing_is_late() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        for _ in 0..3 {
            crowd.wake(&mut count.wakers(3));
            std::thread::sleep(2 * PATIENCE);
            assert_eq!(count.woken(), 0);
            tokio::task::yield_now().await;
            assert_eq!(count.woken(), 3);
        }
    }

    #[tokio::test]
    async fn nobody_is_left_behind() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        crowd.wake(&mut count.wakers(3));
        drop(crowd);
        assert_eq!(count.woken(), 3);
    }

    #[test]
    fn outside_of_a_scheduler_all_are_woken_at_once() {
        let (crowd, count) = (Crowd::new(), Arc::<Count>::default());
        crowd.wake(&mut count.wakers(3));
        assert_eq!(count.woken(), 3);
    }
}
