//! What a thread holds in memory, by an allocator that counts: a server counts what it holds for others itself, and what it forgets to
//! count nobody bounds. Both ends of these tests are on one thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use crate::crowd::MOST;

/// The system's, counting for each thread.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST_HELD: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST_HELD.set(MOST_HELD.get().max(held));
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one hands on what it is given")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What a connection of a crowd takes beside what the server counts: the pipe and the other end, of which the tests are made, the
/// tasks of both, and the first bytes of each, which are free.
const BESIDE: usize = 96 << 10;

/// The most that so many connections may make a server hold.
pub(crate) const fn most(connections: usize) -> usize {
    MOST + connections * BESIDE
}

/// A moment; what is held later is told from what was held then. There is one at a time.
pub(crate) struct Before(isize);

impl Before {
    pub(crate) fn now() -> Self {
        MOST_HELD.set(HELD.get());
        Self(HELD.get())
    }

    /// No more than so much is held now.
    #[track_caller]
    pub(crate) fn check_now(&self, most: usize) {
        let held = usize::try_from(HELD.get() - self.0).unwrap();
        assert!(held <= most, "{} KiB are held, where {} may be", held >> 10, most >> 10);
    }

    /// No more than so much was held at any time since, whoever counts it.
    #[track_caller]
    pub(crate) fn check(&self, most: usize) {
        let held = usize::try_from(MOST_HELD.get() - self.0).unwrap();
        assert!(held <= most, "{} KiB were held, where {} may be", held >> 10, most >> 10);
    }
}
