#include <retentivekv/retentivekv.h>

const char* AttachError(void) { return rkv_last_error(0); }
