//! One thread, one seed, virtual time: tasks run until all wait, then the clock moves to the next alarm. Which of the
//! ready tasks runs next is drawn, so each seed is another interleaving, and the same seed is the same one.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::clock::Time;

/// Wall clock at the beginning, Unix ms.
pub(super) const BEGIN_MS: i64 = 1_700_000_000_000;

/// Time, alarms and chance; shared by everything in a simulation.
#[derive(Clone)]
pub(super) struct Universe(Arc<Mutex<Inner>>);

struct Inner {
    base: Instant,
    now: Duration,
    alarms: BTreeMap<(Duration, u64), Waker>,
    next: u64,
    random: u64,
    spawned: VecDeque<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Universe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Universe at {:?}", self.now())
    }
}

impl Universe {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            base: Instant::now(),
            now: Duration::from_secs(1),
            alarms: BTreeMap::new(),
            next: 0,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03,
            spawned: VecDeque::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.lock().now
    }

    /// The servers' wall clock, Unix ns.
    pub(super) fn wall_nanos(&self) -> i128 {
        i128::from(BEGIN_MS) * 1_000_000 + i128::try_from(self.now().as_nanos()).unwrap()
    }

    /// The next number (splitmix64).
    pub(super) fn random(&self) -> u64 {
        let mut inner = self.lock();
        inner.random = inner.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = inner.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub(super) fn below(&self, n: u64) -> u64 {
        self.random() % n.max(1)
    }

    /// True so many times in a thousand.
    pub(super) fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Between two times.
    pub(super) fn between(&self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from(to.saturating_sub(from).as_micros()).unwrap();
        from + Duration::from_micros(self.below(span + 1))
    }

    /// Waits in virtual time.
    pub(super) fn sleep(&self, time: Duration) -> Sleep {
        Sleep {
            universe: self.clone(),
            due: self.now() + time,
            alarm: None,
        }
    }

    /// Something that goes on by itself: a message on its way, a reply that comes late.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.lock().spawned.push_back(Box::pin(future));
    }
}

/// See [`Universe::sleep`].
pub(super) struct Sleep {
    universe: Universe,
    due: Duration,
    alarm: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        let mut inner = self.universe.lock();
        if inner.now >= due {
            return Poll::Ready(());
        }
        let alarm = self.alarm.unwrap_or_else(|| {
            inner.next += 1;
            (due, inner.next)
        });
        inner.alarms.insert(alarm, cx.waker().clone());
        drop(inner);
        self.alarm = Some(alarm);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm {
            self.universe.lock().alarms.remove(&alarm);
        }
    }
}

/// The clocks of one process: its wall clock may be wrong.
pub(super) struct Watch {
    pub(super) universe: Universe,
    pub(super) offset_ms: AtomicI64,
}

impl Time for Watch {
    fn instant(&self) -> Instant {
        let inner = self.universe.lock();
        inner.base + inner.now
    }

    fn now_ms(&self) -> i64 {
        let now = i64::try_from(self.universe.now().as_millis()).unwrap();
        BEGIN_MS + now + self.offset_ms.load(Ordering::Relaxed)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.universe.sleep(time))
    }

    fn random(&self) -> u64 {
        self.universe.random()
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Flag>,
    /// Stopped like a process by SIGSTOP.
    frozen_until: Duration,
}

/// Names a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TaskId(u64);

/// Runs the tasks of a universe.
pub(super) struct Executor {
    universe: Universe,
    tasks: BTreeMap<TaskId, Task>,
    next: u64,
    polls: u64,
    /// What ran when: equal for equal seeds.
    pub(super) digest: u64,
}

impl Executor {
    pub(super) fn new(universe: Universe) -> Self {
        Self {
            universe,
            tasks: BTreeMap::new(),
            next: 0,
            polls: 0,
            digest: 0,
        }
    }

    pub(super) fn spawn(&mut self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.next += 1;
        let task = Task {
            future: Box::pin(future),
            woken: Arc::new(Flag(AtomicBool::new(true))),
            frozen_until: Duration::ZERO,
        };
        self.tasks.insert(TaskId(self.next), task);
        TaskId(self.next)
    }

    /// Ends a task between two of its steps, as SIGKILL does.
    pub(super) fn kill(&mut self, id: TaskId) {
        self.tasks.remove(&id);
    }

    /// Stops a task for a while, as SIGSTOP does.
    pub(super) fn freeze(&mut self, id: TaskId, time: Duration) {
        let until = self.universe.now() + time;
        if let Some(task) = self.tasks.get_mut(&id) {
            task.frozen_until = until;
        }
    }

    /// Runs until this time.
    pub(super) fn run_until(&mut self, end: Duration) {
        while self.universe.now() < end {
            self.adopt();
            let now = self.universe.now();
            let is_ready = |t: &Task| t.woken.0.load(Ordering::Relaxed) && t.frozen_until <= now;
            let ready: Vec<TaskId> = self
                .tasks
                .iter()
                .filter(|(_, t)| is_ready(t))
                .map(|(id, _)| *id)
                .collect();
            if ready.is_empty() {
                self.advance(end);
                continue;
            }
            let at = usize::try_from(self.universe.below(ready.len() as u64)).unwrap();
            self.poll(ready[at]);
        }
    }

    fn adopt(&mut self) {
        loop {
            let next = self.universe.lock().spawned.pop_front();
            match next {
                Some(future) => drop(self.spawn(future)),
                None => return,
            }
        }
    }

    fn poll(&mut self, id: TaskId) {
        let task = self.tasks.get_mut(&id).expect("a ready task exists");
        task.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.woken));
        self.polls += 1;
        let now = u64::try_from(self.universe.now().as_nanos()).unwrap();
        self.digest = (self.digest ^ id.0 ^ now).wrapping_mul(0x0100_0000_01B3);
        if task
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready()
        {
            self.tasks.remove(&id);
        }
    }

    /// Nobody can go on: to the next alarm, or to the thaw of a task that was woken meanwhile.
    fn advance(&mut self, end: Duration) {
        let thaw = self
            .tasks
            .values()
            .filter(|t| t.woken.0.load(Ordering::Relaxed))
            .map(|t| t.frozen_until)
            .min();
        let mut inner = self.universe.lock();
        let alarm = inner.alarms.first_key_value().map(|(key, _)| key.0);
        let next = [thaw, alarm, Some(end)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(end);
        inner.now = next.max(inner.now);
        let mut due = Vec::new();
        while let Some(entry) = inner.alarms.first_entry() {
            if entry.key().0 > next {
                break;
            }
            due.push(entry.remove());
        }
        drop(inner);
        due.into_iter().for_each(Waker::wake);
    }
}
