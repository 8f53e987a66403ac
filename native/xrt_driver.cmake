# SPDX-License-Identifier: Apache-2.0
# The driver that puts emulated boards under the real libxrt_coreutil (Debian: apt install libxrt-dev libboost-dev).
#
# It fits one release of XRT only, so no wheel holds it.  FPGAHAL_XRT_DRIVER=ON builds it, and installs it beside the
# emulated boards.
option(FPGAHAL_XRT_DRIVER "Build the driver of emulated boards for the real XRT 2.13" OFF)
if(NOT FPGAHAL_XRT_DRIVER)
  return()
endif()

find_path(XRT_INCLUDE version.h PATH_SUFFIXES xrt PATHS /opt/xilinx/xrt/include NO_CACHE)
find_library(XRT_COREUTIL xrt_coreutil PATHS /opt/xilinx/xrt/lib NO_CACHE)
find_path(BOOST_INCLUDE boost/any.hpp NO_CACHE)
if(XRT_INCLUDE)
  file(STRINGS ${XRT_INCLUDE}/version.h release REGEX "xrt_build_version\\[\\]")
  string(REGEX MATCH "[0-9]+\\.[0-9]+" release "${release}")
endif()
if(NOT XRT_INCLUDE OR NOT XRT_COREUTIL OR NOT BOOST_INCLUDE)
  set(why "the headers of XRT and Boost are not there (apt install libxrt-dev libboost-dev)")
elseif(NOT release STREQUAL "2.13")
  set(why "it fits XRT 2.13, here is ${release}")
endif()
if(why)
  message(FATAL_ERROR "FPGAHAL_XRT_DRIVER=ON, but ${why}")
endif()

enable_language(CXX)
set(doors bo kernel run xclbin log) # the stand-alone library's C functions: here XRT has its own
list(TRANSFORM doors REPLACE "(.+)" "xrt_\\1[.]c$")
list(JOIN doors "|" doors)
set(shared ${xrt})
list(FILTER shared EXCLUDE REGEX "/(xrt[.]c$|${doors})")
add_library(fpgahal-xrt-driver SHARED ${board} ${shared} ${xrt_driver})
set_target_properties(fpgahal-xrt-driver PROPERTIES CXX_STANDARD 17 CXX_STANDARD_REQUIRED ON)
target_include_directories(fpgahal-xrt-driver PRIVATE native/include native/emu ${BOOST_INCLUDE})
target_compile_definitions(fpgahal-xrt-driver PRIVATE _GNU_SOURCE)
target_compile_options(fpgahal-xrt-driver PRIVATE ${emulator_options})
target_link_libraries(fpgahal-xrt-driver PRIVATE ${emulator_libraries} ${XRT_COREUTIL})
target_link_options(fpgahal-xrt-driver PRIVATE -Wl,-z,nodelete -Wl,-Bsymbolic
                    -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/native/emu/xrt_driver.map)
set_property(TARGET fpgahal-xrt-driver APPEND PROPERTY LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/native/emu/xrt_driver.map)
if(FPGAHAL_SANITIZE)
  target_compile_options(fpgahal-xrt-driver PRIVATE -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined
                         -fno-sanitize=vptr) # libxrt's classes have type information of their own
  target_link_options(fpgahal-xrt-driver PRIVATE -fsanitize=address,undefined)
else()
  target_link_options(fpgahal-xrt-driver PRIVATE -Wl,-z,defs)
endif()
install(TARGETS fpgahal-xrt-driver LIBRARY DESTINATION fpgahal/_lib)
