//! Answers that come before a body is sent: a server that refuses a file of gigabytes says so at its beginning and closes,
//! and ureq would report the broken pipe instead of the answer that lies in the receive buffer.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Whether the server has stopped reading. Shared with the body, which then has nothing to read any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Arc<AtomicBool>);

impl Refused {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Makes connections that can be read after they have refused to be written to.
#[derive(Debug, Default)]
pub(super) struct EarlyAnswers(pub(super) Refused);

/// A connection that takes everything once it is broken.
#[derive(Debug)]
pub(super) struct Patient<T> {
    inner: T,
    refused: Refused,
}

impl<T: Transport> Connector<T> for EarlyAnswers {
    type Out = Patient<T>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<T>) -> Result<Option<Patient<T>>, ureq::Error> {
        self.0.0.store(false, Ordering::Relaxed);
        Ok(chained.map(|inner| Patient { inner, refused: self.0.clone() }))
    }
}

impl<T: Transport> Transport for Patient<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if self.refused.is_set() {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(ureq::Error::Io(err))
                if matches!(err.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                self.refused.0.store(true, Ordering::Relaxed);
                Ok(())
            }
            result => result,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        !self.refused.is_set() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
