//! The threads of a job: each has a runtime and a store of its own.

use crate::index::IndexError;
use crate::store::{Store, StoreParts};
use tokio::sync::oneshot;

/// How much the threads of a job stand back, as in nice(1): with this the scheduler gives them about a tenth of a busy
/// core, and all of an idle one.
const NICE: i32 = 10;

/// On Linux this is about the calling thread, and the threads that it begins from then on.
pub(super) fn yield_to_clients() {
    if let Err(err) = rustix::process::nice(NICE) {
        log::debug!("a job can't stand back: {err}");
    }
}

/// How much of the machine, and of the volumes, a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// All that there is: nobody else is there.
    Alone,
    /// One thread that does little at a time: clients come first, on the volumes too, which know nothing of priorities.
    BesideClients,
}

impl Effort {
    /// How many keys a thread works on at the same time, of `alone` if it were alone.
    pub(super) fn keys_at_once(self, alone: usize) -> usize {
        match self {
            Effort::Alone => alone,
            Effort::BesideClients => KEYS_BESIDE_CLIENTS,
        }
    }

    fn threads(self) -> usize {
        match self {
            Effort::Alone => std::thread::available_parallelism().map_or(2, usize::from),
            Effort::BesideClients => 1,
        }
    }
}

/// Enough that a volume far away is not waited for all the time.
const KEYS_BESIDE_CLIENTS: usize = 2;

/// Has threads do `work`, as many as the effort asks for, and waits for all of them; the first error is answered.
pub(super) async fn on_threads<W>(
    parts: &StoreParts,
    effort: Effort,
    name: &'static str,
    work: W,
) -> Result<(), IndexError>
where
    W: AsyncFn(&Store) -> Result<(), IndexError> + Clone + Send + 'static,
{
    let threads = effort.threads();
    let begin = |_| {
        let (parts, work) = (parts.clone(), work.clone());
        let (ended, end) = oneshot::channel();
        let run = move || {
            let done = actix_rt::System::new().block_on(async { work(&parts.store()).await });
            drop(ended.send(done));
        };
        std::thread::Builder::new().name(name.into()).spawn(run).expect("there is room for one more thread");
        end
    };
    let ends: Vec<_> = (0..threads).map(begin).collect();
    let mut result = Ok(());
    for end in ends {
        result = result.and(end.await.expect("the thread of a job does not panic"));
    }
    result
}
