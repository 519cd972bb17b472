# Finds the policies, so that a new one needs no line anywhere but in its own file: every
# `extern const PolicyInfo kNAMEPolicy = {` in src/policies/ goes to policies/policy_list.inc.
file(GLOB policy_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/src/policies/*.cc")
set(policy_list "")
foreach(source IN LISTS policy_sources)
  file(STRINGS "${source}" definitions REGEX "^extern const PolicyInfo k[A-Za-z0-9]+ = {$")
  foreach(definition IN LISTS definitions)
    string(REGEX REPLACE "^extern const PolicyInfo (k[A-Za-z0-9]+) = {$" "\\1" name "${definition}")
    string(APPEND policy_list " \\\n  X(${name})")
  endforeach()
endforeach()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${policy_sources})
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/include/policies/policy_list.inc"
  CONTENT "#define RKV_POLICIES(X)@policy_list@\n" @ONLY)
