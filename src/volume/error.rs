//! What a volume can fail at, told apart by what the caller has to do next: nothing has arrived, something may
//! still happen, or the volume has said no.
//!
//! Everything that awc and the operating system report is translated here; no other module looks at it, but for [`super::pipeline`], to which all failures are the same.

use super::wire::WireFault;
use crate::model::{Replica, VOLUME_PATH};
use awc::error::{ConnectError, PayloadError, SendRequestError};
use std::error::Error;
use std::io;
use thiserror::Error;

/// A call to a volume that did not do what was asked.
#[derive(Debug, Clone, Error)]
pub enum VolumeError {
    /// No connection could be made: nothing has arrived there.
    #[error("volume {replica} is unreachable: {reason}")]
    Unreachable {
        /// Where the call went.
        replica: Replica,
        /// What the connect failed with.
        reason: String,
    },
    /// The volume was asked and said nothing in time, or cut the connection. What was asked may still happen.
    #[error("volume {replica} did not answer {method} {path}: {reason}")]
    NoAnswer {
        /// Where the call went.
        replica: Replica,
        /// `HEAD`, `GET`, `PUT` or `DELETE`.
        method: &'static str,
        /// The path below the replica.
        path: String,
        /// Timeout, reset, or an answer that is none.
        reason: String,
    },
    /// The volume answered with a status that is no success: what was asked has not happened.
    #[error("volume {replica} answered {status} to {method} {path}")]
    Refused {
        /// Where the call went.
        replica: Replica,
        /// `HEAD`, `GET`, `PUT` or `DELETE`.
        method: &'static str,
        /// The path below the replica.
        path: String,
        /// The status.
        status: u16,
    },
    /// The request was cut off by this side before its last byte, so the volume has kept nothing of it.
    #[error("PUT {path} to volume {replica} was cut off before its end")]
    Aborted {
        /// Where the call went.
        replica: Replica,
        /// The path below the replica.
        path: String,
    },
    /// The file is larger than the caller can use.
    #[error("{path} on volume {replica} has more than {limit_bytes} bytes")]
    TooLarge {
        /// Where the call went.
        replica: Replica,
        /// The path below the replica.
        path: String,
        /// What the caller allowed, in bytes.
        limit_bytes: usize,
    },
    /// What was to be a directory listing in JSON is none.
    #[error("the listing of {path} on volume {replica} can't be read: {reason}")]
    NoListing {
        /// Where the call went.
        replica: Replica,
        /// The path below the replica.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or directory of a volume's directory on this machine can't be read.
    #[error("{replica}{path} can't be read: {reason}")]
    Unreadable {
        /// Which directory.
        replica: Replica,
        /// The path below it.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The volume is another cluster's, or not the one that it was; nothing that it says counts.
    #[error("volume {replica} is not used: {reason}")]
    Foreign {
        /// Where the call would have gone.
        replica: Replica,
        /// What it is instead.
        reason: String,
    },
    /// A DELETE of a path that ends in `/` would remove a whole tree; it is never sent.
    #[error("{path} on volume {replica} is a directory and is not deleted")]
    Directory {
        /// Where the call would have gone.
        replica: Replica,
        /// The path below the replica.
        path: String,
    },
}

impl VolumeError {
    /// Whether what was asked may still happen: a PUT may land, a DELETE may remove.
    pub fn in_doubt(&self) -> bool {
        matches!(self, VolumeError::NoAnswer { .. })
    }

    /// The status that the volume answered, if it answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            VolumeError::Refused { status, .. } => Some(*status),
            VolumeError::Unreachable { .. }
            | VolumeError::NoAnswer { .. }
            | VolumeError::Aborted { .. }
            | VolumeError::TooLarge { .. }
            | VolumeError::NoListing { .. }
            | VolumeError::Unreadable { .. }
            | VolumeError::Foreign { .. }
            | VolumeError::Directory { .. } => None,
        }
    }

    /// Where the call went.
    pub fn replica(&self) -> &Replica {
        match self {
            VolumeError::Unreachable { replica, .. }
            | VolumeError::NoAnswer { replica, .. }
            | VolumeError::Refused { replica, .. }
            | VolumeError::Aborted { replica, .. }
            | VolumeError::TooLarge { replica, .. }
            | VolumeError::NoListing { replica, .. }
            | VolumeError::Unreadable { replica, .. }
            | VolumeError::Foreign { replica, .. }
            | VolumeError::Directory { replica, .. } => replica,
        }
    }
}

/// What is asked of which file: the part that every error repeats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: &'static str,
    pub(super) replica: &'a Replica,
    pub(super) path: &'a str,
}

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The volume had closed the idle connection; another attempt on a fresh one is due.
    Stale,
    /// The call has failed.
    Failed(VolumeError),
}

impl Call<'_> {
    pub(super) fn no_answer(&self, reason: impl ToString) -> VolumeError {
        VolumeError::NoAnswer {
            replica: self.replica.clone(),
            method: self.method,
            path: self.path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn refused(&self, status: u16) -> VolumeError {
        VolumeError::Refused {
            replica: self.replica.clone(),
            method: self.method,
            path: self.path.to_owned(),
            status,
        }
    }

    fn unreachable(&self, reason: impl ToString) -> VolumeError {
        VolumeError::Unreachable { replica: self.replica.clone(), reason: reason.to_string() }
    }

    /// What an attempt's end in awc means.
    pub(super) fn failure(&self, err: SendRequestError) -> Failure {
        if let Some(fault) = wire_fault(&err) {
            return self.wire_failure(fault);
        }
        Failure::Failed(match err {
            SendRequestError::Connect(ConnectError::Disconnected) => {
                self.no_answer("it cut its answer short")
            }
            SendRequestError::Connect(err) => self.unreachable(err),
            SendRequestError::Url(err) => self.unreachable(err),
            SendRequestError::Http(err) => self.unreachable(err),
            SendRequestError::Send(err) => self.no_answer(err),
            SendRequestError::Response(err) => self.no_answer(err),
            other => self.no_answer(other),
        })
    }

    /// What a second attempt's end means, after a first one that may have arrived on a dying connection.
    pub(super) fn after_retry(&self, failure: Failure) -> VolumeError {
        match failure {
            Failure::Stale => self.no_answer("the connection was lost twice"),
            Failure::Failed(VolumeError::Unreachable { reason, .. }) => {
                self.no_answer(format!("the connection was lost, then {reason}"))
            }
            Failure::Failed(err) => err,
        }
    }

    /// What a failed read of an answer's body means.
    pub(super) fn body_error(&self, err: PayloadError) -> VolumeError {
        match &err {
            PayloadError::Incomplete(Some(cause)) | PayloadError::Io(cause) => self.no_answer(cause),
            _ => self.no_answer(err),
        }
    }

    fn wire_failure(&self, fault: &WireFault) -> Failure {
        match fault {
            WireFault::Lost { reused: true, .. } => Failure::Stale,
            WireFault::Early { status: status @ 300.. } => Failure::Failed(self.refused(*status)),
            WireFault::Refused { status } => {
                let call = Call { method: "GET", replica: self.replica, path: VOLUME_PATH };
                Failure::Failed(call.refused(*status))
            }
            WireFault::Stranger { reason } => {
                let (replica, reason) = (self.replica.clone(), reason.clone());
                Failure::Failed(VolumeError::Foreign { replica, reason })
            }
            fault @ (WireFault::Lost { reused: false, .. }
            | WireFault::Early { .. }
            | WireFault::Stalled { .. }
            | WireFault::Dribbled { .. }) => Failure::Failed(self.no_answer(fault)),
        }
    }
}

/// The fault that our own connection reported, out of what awc has wrapped it in.
fn wire_fault(err: &SendRequestError) -> Option<&WireFault> {
    let cause: &io::Error = match err {
        SendRequestError::Send(cause) | SendRequestError::Connect(ConnectError::Io(cause)) => cause,
        SendRequestError::Response(awc_parse) => awc_parse.source()?.downcast_ref()?,
        _ => return None,
    };
    cause.get_ref()?.downcast_ref()
}
