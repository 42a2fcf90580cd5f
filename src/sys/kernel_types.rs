//! What the running kernel's type information says that it has, which a kernel's version does not tell for sure.

use libbpf_rs::btf::{Btf, types};

/// The types and functions of the running kernel, `/sys/kernel/btf/vmlinux`.
pub(super) struct KernelTypes(Btf<'static>);

impl KernelTypes {
    /// `None` where the kernel does not tell.
    pub(super) fn read() -> Option<Self> {
        Btf::from_vmlinux().ok().map(Self)
    }

    pub(super) fn has_function(&self, name: &str) -> bool {
        self.0.type_by_name::<types::Func>(name).is_some()
    }

    pub(super) fn has_member(&self, structure: &str, name: &str) -> bool {
        let found = self.0.type_by_name::<types::Struct>(structure);
        found.is_some_and(|found| found.iter().any(|member| member.name.is_some_and(|known| known == name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_kernel_has_is_found_and_nothing_else() {
        let Some(types) = KernelTypes::read() else {
            return eprintln!("SKIPPED: this kernel has no type information");
        };
        assert!(types.has_function("schedule") && !types.has_function("task_struct"));
        assert!(types.has_member("task_struct", "tgid") && !types.has_member("task_struct", "schedule"));
        assert!(!types.has_member("no_struct", "tgid"));
    }
}
