//! What can be said to the index actor. Each message is a verb that carries its invariant, with its own reply.

use super::table::{self, Entry};
use super::{IndexError, KeyCounts, Reservation};
use crate::model::{Intent, Key, Names, PlacedFile, Record, RecordError, Replica, State, Volume};
use std::ops::Bound;
use tokio::sync::oneshot;

/// What a writer is about to do with a key; the index checks that it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Write a blob to these places, where there is no live one.
    Put(Vec<Replica>),
    /// Write a blob to these places, whatever is there.
    Replace(Vec<Replica>),
    /// Turn a live record into a tombstone.
    Unlink,
    /// Turn a tombstone into a live record.
    Relink,
    /// Write the sidecars of a tombstone that has none yet.
    Note,
    /// Bring copies of the version that is there, live or unlinked, to these places. Writers wait for it.
    Move(Vec<Replica>),
    /// Look at it, whether there is a record or not, and maybe name files that are left of it. Writers wait for it.
    Hold,
    /// Forget the record at once, and have all files removed, also those that earlier writes have left.
    Remove {
        /// Refuse to remove a live blob.
        protect: bool,
    },
}

/// What becomes of the record when a reservation ends.
#[derive(Debug)]
pub(super) enum Change {
    Keep,
    Store {
        record: Record,
        /// What the record was before.
        before: Option<State>,
    },
}

/// Which keys a listing is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// Live ones.
    Live,
    /// Unlinked ones only.
    Unlinked,
    /// Those that a client is writing or removing at this moment, whether they have a record or not.
    Writing,
}

/// What to list.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Where to go on.
    pub from: Bound<Vec<u8>>,
    /// At most so many keys (> 0); the index may return fewer although more follow.
    pub limit: usize,
    /// Which ones.
    pub listing: Listing,
}

/// Some keys, and where to go on.
#[derive(Debug, Clone)]
pub struct Page {
    /// In byte order.
    pub keys: Vec<Vec<u8>>,
    /// `None` when there are no more.
    pub next: Option<Bound<Vec<u8>>>,
}

/// Some records, live and unlinked, and where to go on.
#[derive(Debug, Clone)]
pub struct Records {
    /// In byte order. A value that is no record is its key's own fault, and no other's.
    pub entries: Vec<(Key, Result<Record, RecordError>)>,
    /// `None` when there are no more.
    pub next: Option<Bound<Vec<u8>>>,
}

/// What was let go of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Files that were to be removed.
    pub files: u64,
    /// Whether somebody holds a key that has more of them.
    pub is_held: bool,
    /// The slot to go on from; `None` behind the last.
    pub next: Option<u32>,
}

/// A volume with all its subvolumes, or one place of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Everything on a volume.
    Volume(Volume),
    /// One subvolume, or a volume's root without its subvolumes.
    Only(Replica),
}

impl Places {
    /// Whether a place is one of them.
    pub fn contains(&self, place: &Replica) -> bool {
        match self {
            Places::Volume(volume) => place.volume() == *volume,
            Places::Only(only) => place == only,
        }
    }
}

/// Records in which earlier names of places became the present ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// How many.
    pub records: u64,
    /// Where to go on; `None` when there are no more.
    pub next: Option<Bound<Vec<u8>>>,
}

/// Files that wait to be settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitingFiles {
    /// Those in the slots that were looked at.
    pub files: Vec<PlacedFile>,
    /// The slot to go on from; `None` behind the last.
    pub next: Option<u32>,
}

type Reply<T> = oneshot::Sender<T>;
pub(super) type Reserved = Result<Reservation, IndexError>;
pub(super) type Claimed = Result<Option<Reservation>, IndexError>;

pub(super) enum Message {
    /// The raw values of some keys, in their order.
    Locate {
        keys: Vec<Key>,
        reply: Reply<Vec<Option<Vec<u8>>>>,
    },
    Reserve {
        key: Key,
        verb: Verb,
        reply: Reply<Reserved>,
    },
    /// Makes more files part of a reservation's intent.
    Extend {
        slot: u32,
        files: Vec<PlacedFile>,
        reply: Reply<()>,
    },
    /// Ends a reservation: the record, and what is left to be settled, in one batch.
    End {
        slot: u32,
        change: Change,
        left: Vec<PlacedFile>,
        not_before_us: u64,
        reply: Reply<()>,
    },
    /// A reservation was dropped: its files are left as they are.
    Abandon {
        slot: u32,
    },
    Claim {
        slot: u32,
        reply: Reply<Claimed>,
    },
    /// Intents that are due; all that wait with `all`.
    Due {
        all: bool,
        limit: usize,
        reply: Reply<Vec<(u32, Intent)>>,
    },
    /// The files of waiting intents, from a slot on.
    WaitingFiles {
        from: u32,
        reply: Reply<WaitingFiles>,
    },
    Postpone {
        slots: Vec<u32>,
        until_us: u64,
    },
    Unsettled {
        reply: Reply<usize>,
    },
    /// The times of all reservations that there are.
    HeldSince {
        reply: Reply<Vec<u64>>,
    },
    /// How many keys there are. The first one has them counted.
    KeyCounts {
        reply: Reply<Option<KeyCounts>>,
    },
    List {
        request: PageRequest,
        reply: Reply<Result<Page, IndexError>>,
    },
    /// One page of records, of at most so many entries.
    Scan {
        from: Bound<Vec<u8>>,
        limit: usize,
        reply: Reply<Records>,
    },
    /// Whether tombstones have to be noted, because another program wrote this index.
    Unnoted {
        reply: Reply<bool>,
    },
    /// All tombstones are noted.
    Noted {
        reply: Reply<()>,
    },
    ClusterId {
        reply: Reply<String>,
    },
    /// The id that the cluster is getting, if it is.
    NextClusterId {
        reply: Reply<Option<String>>,
    },
    /// Makes that id, if there is none.
    BeginRename {
        reply: Reply<()>,
    },
    /// Makes it the cluster's.
    EndRename {
        reply: Reply<()>,
    },
    /// The index's own entries whose keys begin with `prefix`, which begins with the reserved prefix.
    OwnEntries {
        prefix: String,
        reply: Reply<Vec<Entry>>,
    },
    /// Changes some of them.
    ChangeOwn {
        changes: Vec<table::Change>,
        reply: Reply<()>,
    },
    /// From now on records and intents are told under these present names.
    SetNames {
        names: Names,
        reply: Reply<()>,
    },
    /// Writes present names into one page of records.
    RewriteNames {
        from: Bound<Vec<u8>>,
        reply: Reply<Rewritten>,
    },
    /// No version is later than this, µs since 1970.
    Mark {
        reply: Reply<u64>,
    },
    /// Lets go of what waits to be removed from a place, in some slots from `from` on.
    Forget {
        places: Places,
        from: u32,
        reply: Reply<Forgotten>,
    },
    Close,
}
