fn main() {
    millrace_tests::run_leash_if_asked();
}
