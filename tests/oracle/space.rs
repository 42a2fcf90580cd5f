//! What a target has mapped, for framehop, for the second judge and for our walker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use framehop::x86_64::UnwinderX86_64;
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};
use txprof::model::{Avma, Mapping};
use txprof::sampler::{RowsOf, SliceEntry, Tables};
use txprof::sys::clock::monotonic_ns;
use txprof::target::procfs;

use super::{Image, Images, programs};

/// An executable range.
struct Mapped {
    mapping: Mapping,
    /// The binary behind it and its bias.
    image: Option<(Arc<Image>, u64)>,
}

/// The executable ranges of a process, ascending.
pub struct Space {
    mapped: Vec<Mapped>,
    pub framehop: UnwinderX86_64<Arc<[u8]>>,
    /// When they were read, `CLOCK_MONOTONIC`.
    pub read_ns: u64,
    /// What [`Self::is_plain`] found.
    plain: RefCell<HashMap<u64, bool>>,
}

impl Space {
    /// Reads them of a process that lives.
    pub fn read(pid: u32, images: &mut Images, tables: &mut Tables) -> Option<Self> {
        let mappings = procfs::read_mappings(pid).ok()?;
        let mut space = Self {
            mapped: Vec::new(),
            framehop: UnwinderX86_64::new(),
            read_ns: monotonic_ns(),
            plain: RefCell::default(),
        };
        for mapping in mappings.into_iter().filter(|mapping| mapping.end.0 >> 63 == 0) {
            let image = images.of_mapping(pid, &mapping, tables);
            let image = image.and_then(|image| image.bias(&mapping).map(|bias| (image, bias)));
            if let Some((image, bias)) = &image {
                space.framehop.add_module(module(&mapping, image, *bias));
            }
            space.mapped.push(Mapped { mapping, image });
        }
        (!space.mapped.is_empty()).then_some(space)
    }

    /// Whether `other` has the same ranges.
    pub fn equals(&self, other: &Self) -> bool {
        let ranges = |space: &Self| space.mapped.iter().map(|m| m.mapping.clone()).collect::<Vec<_>>();
        ranges(self) == ranges(other)
    }

    /// The same for our walker.
    pub fn slice(&self) -> Vec<SliceEntry> {
        let entry = |mapped: &Mapped| {
            let rows = match mapped.image.as_ref().and_then(|(image, _)| image.table) {
                Some(table) => RowsOf::Table(table),
                None => RowsOf::Nothing,
            };
            let bias = mapped.image.as_ref().map_or(0, |(_, bias)| *bias);
            SliceEntry { start: mapped.mapping.start, end: mapped.mapping.end, bias, rows }
        };
        self.mapped.iter().map(entry).collect()
    }

    /// The binary at `address`, and the stated address.
    pub fn find(&self, address: u64) -> Option<(&Image, u64)> {
        let mapped = self.mapped_at(address)?;
        mapped.image.as_ref().map(|(image, bias)| (&**image, address.wrapping_sub(*bias)))
    }

    /// `libc.so.6`, `[generated]` or `[unmapped]`.
    pub fn module(&self, address: u64) -> &str {
        match (self.find(address), self.mapped_at(address)) {
            (Some((image, _)), _) => &image.name,
            (None, Some(_)) => "[generated]",
            (None, None) => "[unmapped]",
        }
    }

    /// The same, with the stated address: `libc.so.6+0x1234`.
    pub fn name(&self, address: u64) -> String {
        match self.find(address) {
            Some((image, svma)) => format!("{}+{svma:#x}", image.name),
            None => self.module(address).to_owned(),
        }
    }

    /// Whether framehop can follow what is said of the code at `address`, if anything is.
    pub fn is_plain(&self, address: u64) -> bool {
        let find = || programs::is_plain(self, address).unwrap_or(true);
        *self.plain.borrow_mut().entry(address).or_insert_with(find)
    }

    /// Whether there is code at `address`.
    pub fn is_mapped(&self, address: u64) -> bool {
        self.mapped_at(address).is_some()
    }

    fn mapped_at(&self, address: u64) -> Option<&Mapped> {
        let behind = self.mapped.partition_point(|mapped| mapped.mapping.start.0 <= address);
        let mapped = self.mapped.get(behind.checked_sub(1)?)?;
        mapped.mapping.contains(Avma(address)).then_some(mapped)
    }
}

fn module(mapping: &Mapping, image: &Image, bias: u64) -> Module<Arc<[u8]>> {
    let svma = |section: &super::image::Section| Some(section.svma.clone()).filter(|svma| !svma.is_empty());
    let data =
        |section: &super::image::Section| Some(section.bytes.clone()).filter(|bytes| !bytes.is_empty());
    let info = ExplicitModuleSectionInfo {
        text_svma: svma(&image.text),
        text: data(&image.text),
        got_svma: svma(&image.got),
        eh_frame_svma: svma(&image.eh_frame),
        eh_frame: data(&image.eh_frame),
        eh_frame_hdr_svma: svma(&image.eh_frame_hdr),
        eh_frame_hdr: data(&image.eh_frame_hdr),
        ..ExplicitModuleSectionInfo::default()
    };
    Module::new(image.name.clone(), mapping.start.0..mapping.end.0, bias, info)
}
