//! Work of a job on all cores: each thread has a runtime and a store of its own.

use crate::index::IndexError;
use crate::store::{Store, StoreParts};
use tokio::sync::oneshot;

/// Has as many threads as there are cores do `work`, and waits for all of them; the first error is answered.
pub(super) async fn on_threads<W>(parts: &StoreParts, name: &'static str, work: W) -> Result<(), IndexError>
where
    W: AsyncFn(&Store) -> Result<(), IndexError> + Clone + Send + 'static,
{
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
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
