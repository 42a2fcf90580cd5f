//! What the running kernel's type information says that it has, which a kernel's version does not tell for sure.

use libbpf_rs::btf::{Btf, types};

/// The types and functions of the running kernel, `/sys/kernel/btf/vmlinux`. Without that it is as if it had none of what is
/// asked for.
pub(super) struct KernelTypes(Option<Btf<'static>>);

impl KernelTypes {
    pub(super) fn read() -> Self {
        Self(Btf::from_vmlinux().ok())
    }

    pub(super) fn has_function(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|types| types.type_by_name::<types::Func>(name).is_some())
    }

    pub(super) fn has_member(&self, structure: &str, name: &str) -> bool {
        let found = self.0.as_ref().and_then(|types| types.type_by_name::<types::Struct>(structure));
        found.is_some_and(|found| found.iter().any(|member| member.name.is_some_and(|known| known == name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_kernel_has_is_found_and_nothing_else() {
        let types = KernelTypes::read();
        if types.0.is_none() {
            return eprintln!("SKIPPED: this kernel has no type information");
        }
        assert!(types.has_function("schedule") && !types.has_function("task_struct"));
        assert!(types.has_member("task_struct", "tgid") && !types.has_member("task_struct", "schedule"));
        assert!(!types.has_member("no_struct", "tgid"));
    }
}
