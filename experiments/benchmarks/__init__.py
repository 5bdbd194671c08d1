"""Speed measurements that anyone can rerun: each script prints a table and writes its result beside itself."""
