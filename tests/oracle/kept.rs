//! perf's reading of an instant: `PERF_RECORD_SAMPLE` as `RingContent::MappingsAndSamples` lays it out.

/// Registers and the stack from rsp upwards, as far as it was copied.
pub struct Kept {
    pub tid: u32,
    pub time_ns: u64,
    pub pc: u64,
    /// By DWARF number.
    pub registers: [u64; 16],
    stack: Vec<u8>,
}

/// The places of DWARF's registers 0 to 15 among ax bx cx dx si di bp sp ip r8 … r15.
const PLACES: [usize; 16] = [0, 3, 2, 1, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16];
/// DWARF order: ax dx cx bx si di bp sp.
const RSP: usize = 7;

impl Kept {
    /// `None` where the thread had no registers in user mode.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = body.get(8 * index..8 * index + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().expect("eight of them")))
        };
        let (ids, time_ns, abi) = (word(0)?, word(1)?, word(2)?);
        if abi == 0 {
            return None;
        }
        let mut registers = [0; 16];
        for (register, place) in registers.iter_mut().zip(PLACES) {
            *register = word(3 + place)?;
        }
        let size = usize::try_from(word(20)?).ok()?;
        let valid = if size == 0 { 0 } else { usize::try_from(word(21 + size / 8)?).ok()? };
        let stack = body.get(168..168 + valid)?.to_vec();
        Some(Self { tid: (ids >> 32) as u32, time_ns, pc: word(3 + 8)?, registers, stack })
    }

    /// The 8 bytes at `address`, if they were copied.
    pub fn read(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.registers[RSP])?).ok()?;
        let bytes = self.stack.get(offset..offset.checked_add(8)?)?;
        Some(u64::from_ne_bytes(bytes.try_into().expect("eight of them")))
    }

    /// Whether `address` may well be of this stack, but lies behind the end of the copy: that is full, or ends before
    /// a page that a large frame has not touched yet.
    pub fn is_behind_copy(&self, address: u64) -> bool {
        /// The usual `RLIMIT_STACK`.
        const MAX_STACK_BYTES: u64 = 8 << 20;
        let end = self.registers[RSP].saturating_add(self.stack.len() as u64);
        (end.saturating_sub(7)..end.saturating_add(MAX_STACK_BYTES)).contains(&address)
    }
}
