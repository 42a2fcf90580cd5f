//! The nouns of a profile, as pure values.
//!
//! A *sample* observes one thread at one instant. Its *stack* starts as raw
//! addresses and ends as named *frames*; its *weight* says what it counts for
//! and its *outcome* how the walk ended. A *profile* is weighted stacks plus
//! where, when and how they were taken. Nothing here does I/O or reads a clock.

pub mod address;
pub mod build_id;
pub mod date;
pub mod frame;
pub mod mapping;
pub mod outcome;
pub mod profile;
pub mod quantity;
pub mod request;
pub mod snapshot;
pub mod thread;

pub use address::{Avma, LookupAddress, Svma};
pub use build_id::BuildId;
pub use frame::{Frame, FrameKind};
pub use mapping::{FileId, Mapping, MappingKind};
pub use outcome::Outcome;
pub use profile::{Cost, Mode, Profile, RateChange, Recording, Root, Sample, StackId, Stops, WeightUnit};
pub use request::{Attributes, Binding, Request, RequestStatus};
pub use thread::{ThreadState, ThreadSums, ThreadTimes};
